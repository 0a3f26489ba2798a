"""CIFAR-FS (Bertinetto et al. 2019, https://arxiv.org/abs/1805.08136): CIFAR-100 (Krizhevsky 2009), split by class."""

import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from few_shot.data import safe_pickle
from few_shot.data.base import ImageEpisodes
from few_shot.data.class_folders import find_class_folders, fingerprint, scan
from few_shot.data.download import check, download
from few_shot.data.image_store import Source, ensure_store
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

FOLDERS = ("cifar_fs", "cifar-fs", "cifarfs", "CIFAR-FS", "CifarFS", "cifar100", "")
ARCHIVE, ARCHIVE_MD5 = "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
ARCHIVE_URLS = ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]
SHAPE = (3, 32, 32)


@cache
def split_classes(split: str) -> tuple[str, ...]:
    """The CIFAR-100 names of a split's classes, sorted: 64 for training, 16 for validation, 20 for the test."""
    return tuple((Path(__file__).parent / "splits" / "cifar_fs" / f"{split}.txt").read_text().split())


class CifarFS(ImageEpisodes):
    """CIFAR-FS: CIFAR-100's classes of 600 images, 32×32, 64 classes to train, 16 to validate, 20 to test.

    It is looked for in a subfolder such as ``cifar_fs`` or ``cifar100`` and in ``data_dir``, in this order of forms:
    class folders ``{train,val,test}/<class>/*.png``, all of a split's classes or some; ``cifar-100-python.tar.gz``, the
    official archive, whose training and test images are pooled. If there is none, the archive is downloaded.
    """

    input_shape = image_shape = SHAPE

    def build_store(self) -> Path:
        """Find or download the images, decode them once, and return the store's folder."""
        return ensure_store(
            self.data_dir,
            "cifar_fs",
            SHAPE,
            find=lambda: find_cifar_fs(self.data_dir),
            download=lambda: download_cifar_fs(self.data_dir),
        )


def find_cifar_fs(data_dir: Path) -> Source | None:
    """The images in the first form that is there; None if there is none.

    Raises:
        BadInput: that form is incomplete or damaged, or a class is not one of its split.
    """
    if data_dir.exists():
        scan(data_dir)  # raises if it is no folder, or may not be read
    for root in (data_dir / folder for folder in FOLDERS):
        for find in (_class_folders, _archive):
            if source := find(root):
                return source
    return None


def _class_folders(root: Path) -> Source | None:
    source = find_class_folders(root, SHAPE)
    if source is None:
        return None

    def classes(split: str) -> dict[str, int]:
        found = source.classes(split)
        if strangers := found.keys() - set(split_classes(split)):
            name = min(strangers)
            right = [s for s in SPLITS if name in split_classes(s)]
            belongs = f"belongs in its {right[0]} split" if right else "is none of its classes"
            raise BadInput(f"Class {name} in {root / split} is not of CIFAR-FS's {split} split: it {belongs}.")
        return found

    return Source(source.form, source.fingerprint, classes, source.read)


def _archive(root: Path) -> Source | None:
    """The official archive, read in place."""
    archive = root / ARCHIVE
    if not archive.is_file():
        return None

    @cache
    def load() -> dict[str, NDArray[np.uint8]]:
        check(archive, md5=ARCHIVE_MD5)
        return _read_archive(archive)

    return Source(
        form="CIFAR-100 archive",
        fingerprint=fingerprint([archive.stat()]),
        classes=lambda split: {name: len(load()[name]) for name in split_classes(split)},
        read=lambda split, name: iter(load()[name]),
    )


def _read_archive(archive: Path) -> dict[str, NDArray[np.uint8]]:
    """Each class's images, uint8 ``[n, 3, 32, 32]``: those of the training file, then those of the test file.

    Raises:
        BadInput: the archive cannot be read, or does not hold CIFAR-100.
    """
    contents: dict[str, Any] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and (name := Path(member.name).name) in ("train", "test", "meta"):
                    file: Any = tar.extractfile(member)
                    contents[name] = safe_pickle.load(file, f"{member.name} in {archive}")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(f"{archive} cannot be read ({error}): replace it, or remove it.") from error
    try:
        names = [str(name) for name in contents["meta"]["fine_label_names"]]
        parts = [contents[part] for part in ("train", "test")]
        images = np.concatenate([np.asarray(part["data"]) for part in parts])
        labels = np.concatenate([np.asarray(part["fine_labels"], dtype=np.int64) for part in parts])
        if images.dtype != np.uint8 or images.shape != (len(labels), 3072):
            raise ValueError(f"images of type {images.dtype} and shape {images.shape}")
        by_class = {name: images[labels == label].reshape(-1, *SHAPE) for label, name in enumerate(names)}
        if absent := {name for split in SPLITS for name in split_classes(split) if not len(by_class[name])}:
            raise ValueError(f"no images of {min(absent)}")
    except (LookupError, TypeError, ValueError) as error:
        raise BadInput(f"{archive} does not hold CIFAR-100 ({error!r}): replace it, or remove it.") from error
    return by_class


def download_cifar_fs(data_dir: Path) -> None:
    """Fetch the official archive.

    Raises:
        BadInput: it cannot be had; says what to put where.
    """
    target = data_dir / "cifar_fs" / ARCHIVE
    try:
        download(ARCHIVE_URLS, target, md5=ARCHIVE_MD5)
    except BadInput as error:
        raise BadInput(
            f"CIFAR-FS is not in --data_dir={data_dir}, and could not be downloaded: put {ARCHIVE} (md5 {ARCHIVE_MD5}) "
            f"there, as {target}, from {ARCHIVE_URLS[0]}, or class folders {{train,val,test}}/<class>/*.png. "
            f"Tried: {error}"
        ) from error
