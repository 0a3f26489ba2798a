"""CIFAR-100 (Krizhevsky 2009), from the forms that CIFAR-FS and FC100, two splits of its classes, share."""

import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from few_shot.data import safe_pickle
from few_shot.data.class_folders import SplitClasses, find_published_folders, fingerprint, places
from few_shot.data.download import announce, check, download
from few_shot.data.image_store import Source
from few_shot.data.pictures import preprocessing
from few_shot.errors import BadInput
from few_shot.files import open_file

ARCHIVE, ARCHIVE_MD5 = "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
ARCHIVE_URLS = ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]
EXTRACTED = "cifar-100-python"
FORMS = f"class folders {{train,val,test}}/<class>/*.png, {ARCHIVE}, or that archive extracted, {EXTRACTED}/"
SHAPE = (3, 32, 32)
HOW = preprocessing(SHAPE)
CLASSES = 100
# Where the archive, which knows no splits, may have been put for another data set.
OTHERS = ("cifar100", "cifar_fs", "cifar-fs", "cifarfs", "fc100")


def find_cifar100(title: str, data_dir: Path, names: tuple[str, ...], split_classes: SplitClasses) -> Source | None:
    """The images in the first form that is there; None if there is none.

    Args:
        title: the name of this split of the classes, for messages.
        data_dir: where to look.
        names: the subfolders to look in; ``""`` is ``data_dir`` itself.
        split_classes: maps a split to its classes.

    Raises:
        BadInput: that form is incomplete or damaged, or a class is not one of its split.
    """
    for root in places(data_dir, names):
        if source := find_published_folders(title, root, split_classes, HOW) or _archive(root, split_classes):
            return source
    for root in places(data_dir, OTHERS):
        if source := _archive(root, split_classes):
            return source
    return None


def _archive(root: Path, split_classes: SplitClasses) -> Source | None:
    """The official archive, read in place, or what it extracts to."""
    archive, folder = root / ARCHIVE, root / EXTRACTED
    parts = [folder / part for part in ("train", "test", "meta")]
    extracted = all(part.is_file() for part in parts)
    if not archive.is_file() and not extracted:
        return None

    @cache
    def load() -> dict[str, NDArray[np.uint8]]:
        if not archive.is_file():
            return _by_class({part.name: _load_file(part) for part in parts}, folder)
        check(archive, md5=ARCHIVE_MD5)
        return _by_class(_read_archive(archive), archive)

    return Source(
        form="CIFAR-100 archive, by name" if archive.is_file() else "CIFAR-100 archive, extracted, by name",
        fingerprint=fingerprint(path.stat() for path in ([archive] if archive.is_file() else parts)),
        classes=lambda split: {name: len(load()[name]) for name in split_classes(split)},
        read=lambda split, name: iter(load()[name]),
    )


def _load_file(path: Path) -> Any:
    with open_file(path) as file:
        return safe_pickle.load(file, path)


def _read_archive(archive: Path) -> dict[str, Any]:
    """What the archive holds, whose checksum is known to be right."""
    contents: dict[str, Any] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and (name := Path(member.name).name) in ("train", "test", "meta"):
                    file: Any = tar.extractfile(member)
                    contents[name] = safe_pickle.load(file, f"{member.name} in {archive}")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(f"{archive} cannot be read ({error}): replace it, or remove it.") from error
    return contents


def _by_class(contents: dict[str, Any], source: Path) -> dict[str, NDArray[np.uint8]]:
    """Each class's images, uint8 ``[n, 3, 32, 32]``: those of the test file by their names, then the training file's.

    Class folders whose pictures are called ``test_<name>`` and ``train_<name>`` have them in the same order.

    Raises:
        BadInput: the files do not hold CIFAR-100.
    """
    try:
        names = safe_pickle.texts(contents["meta"]["fine_label_names"])
        parts = [contents[part] for part in ("test", "train")]
        images = np.concatenate([np.asarray(part["data"]) for part in parts])
        labels = np.concatenate([safe_pickle.whole_numbers(part["fine_labels"]) for part in parts])
        files = [(i, file) for i, part in enumerate(parts) for file in safe_pickle.texts(part["filenames"])]
        if images.dtype != np.uint8 or images.shape != (len(labels), 3072) or len(files) != len(labels):
            raise ValueError(f"images of type {images.dtype} and shape {images.shape}, with {len(files)} names")
        order = sorted(range(len(files)), key=files.__getitem__)
        images, labels = images[order], labels[order]
        by_class = {name: images[labels == label].reshape(-1, *SHAPE) for label, name in enumerate(names)}
        if absent := [name for name, images in by_class.items() if not len(images)]:
            raise ValueError(f"no images of {absent[0]}")
        if len(by_class) != CLASSES:
            raise ValueError(f"{len(by_class)} classes")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{source} does not hold CIFAR-100 ({error!r}): replace it, or remove it.") from error
    return by_class


def download_cifar100(title: str, data_dir: Path, names: tuple[str, ...]) -> None:
    """Fetch the official archive.

    Raises:
        BadInput: it may not be downloaded there, or cannot be had; says what to put where.
    """
    announce(title, data_dir, (*names, EXTRACTED), FORMS, size="170 MB")
    target = data_dir / names[0] / ARCHIVE
    try:
        download(ARCHIVE_URLS, target, md5=ARCHIVE_MD5)
    except BadInput as error:
        raise BadInput(
            f"{title} is not in data_dir={data_dir}, and could not be downloaded: put {ARCHIVE} (md5 {ARCHIVE_MD5}) "
            f"there, as {target}, from {ARCHIVE_URLS[0]}, or class folders {{train,val,test}}/<class>/*.png. "
            f"Tried: {error}"
        ) from error
