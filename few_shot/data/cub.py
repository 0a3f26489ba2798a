"""CUB-200-2011 (Wah et al. 2011): kinds of birds, in the split of Chen et al. (2019, arXiv:1904.04232)."""

import os
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from few_shot.data.base import ImageEpisodes
from few_shot.data.class_folders import (
    FileReader,
    Files,
    find_published_folders,
    fingerprint,
    places,
    scan,
    stat,
    suffixes,
)
from few_shot.data.download import announce, check, download
from few_shot.data.image_store import Source, ensure_store
from few_shot.data.pictures import Preprocessing, decode, preprocessing
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

# The folder itself comes last: it may hold another data set's classes.
FOLDERS = ("cub", "cub_200_2011", "cub-200-2011", "cub200", "")
ARCHIVE, ARCHIVE_MD5 = "CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"
ARCHIVE_URLS = [
    f"https://data.caltech.edu/records/65de6-vp158/files/{ARCHIVE}?download=1",
    "https://drive.usercontent.google.com/download?id=1hbzc_P1FuxMkcabkgn9ZKinBwW683j45&export=download&confirm=t",
]
FORMS = f"class folders {{train,val,test}}/<class>/*.jpg, CUB_200_2011/images/<class>/*.jpg, or {ARCHIVE}"
SHAPE = (3, 84, 84)
HOW = preprocessing(SHAPE, crop="center")
IMAGES = 11_788  # in all


@cache
def split_classes(split: str) -> tuple[str, ...]:
    """The names of a split's classes, such as 001.Black_footed_Albatross: 100 to train, 50 to validate, 50 to test."""
    return tuple((Path(__file__).parent / "splits" / "cub" / f"{split}.txt").read_text().split())


class CUB(ImageEpisodes):
    """CUB-200-2011: 200 kinds of birds, 41 to 60 photos each; 100 kinds to train, 50 to validate, 50 to test.

    Of each photo the largest square in the middle is taken, 84×84. It is looked for in a subfolder such as ``cub`` and
    in ``data_dir``, in this order of forms: class folders ``{train,val,test}/<class>/*.jpg``, all of a split's classes
    or some; ``CUB_200_2011/images/<class>/*.jpg``, the official archive extracted; ``CUB_200_2011.tgz``, the archive.
    If there is none, the archive is downloaded.
    """

    input_shape = image_shape = SHAPE

    @property
    def preprocessing(self) -> Preprocessing:
        return HOW.copy()

    def build_store(self) -> Path:
        """Find or download the images, decode them once, and return the store's folder."""
        return ensure_store(
            self.data_dir,
            "cub",
            SHAPE,
            find=lambda: find_cub(self.data_dir),
            download=lambda: download_cub(self.data_dir),
            preprocessing=HOW,
        )


def find_cub(data_dir: Path) -> Source | None:
    """The images in the first form that is there; None if there is none.

    Raises:
        BadInput: that form is incomplete or damaged, or a class is not one of its split.
    """
    for root in places(data_dir, FOLDERS):
        if source := find_published_folders("CUB", root, split_classes, HOW) or _extracted(root) or _archive(root):
            return source
    return None


def _extracted(root: Path) -> Source | None:
    """The archive as it is extracted, by name or already inside it."""
    own = {name for split in SPLITS for name in split_classes(split)}
    for images in (root / "CUB_200_2011" / "images", root / "images"):
        if not images.is_dir() or not own & {entry.name for entry in scan(images)}:
            continue
        files: Files = {split: {} for split in SPLITS}
        stats: list[os.stat_result] = []
        names: list[str] = []
        for split in SPLITS:
            for name in split_classes(split):
                if not (images / name).is_dir():
                    raise BadInput(f"{images / name} is missing: extract the whole archive.")
                found = [entry for entry in scan(images / name) if PurePath(entry.name).suffix.lower() in suffixes()]
                files[split][name] = [Path(entry.path) for entry in found]
                stats += [(images / name).stat(), *map(stat, found)]  # a folder's own date tells of renamed files
                names += [entry.name for entry in found]
        if len(names) != IMAGES:
            raise BadInput(f"{images} holds {len(names)} images, and CUB has {IMAGES}: extract the archive again.")
        reader = FileReader(files, HOW)
        return Source("CUB archive, extracted", fingerprint(stats, names), reader.classes, reader.read)
    return None


def _archive(root: Path) -> Source | None:
    """The official archive, read in place: from its start to its end, once."""
    archive = root / ARCHIVE
    if not archive.is_file():
        return None

    @cache
    def load() -> dict[str, list[NDArray[np.uint8]]]:
        check(archive, md5=ARCHIVE_MD5)
        by_class = defaultdict(list)
        for name, picture in sorted(_pictures(archive), key=lambda pair: pair[0]):
            by_class[PurePath(name).parent.name].append(picture)
        if missing := [name for split in SPLITS for name in split_classes(split) if name not in by_class]:
            raise BadInput(f"{archive} holds no images of {missing[0]}: replace it, or remove it.")
        return by_class

    return Source(
        form="CUB archive",
        fingerprint=fingerprint([archive.stat()]),
        classes=lambda split: {name: len(load()[name]) for name in split_classes(split)},
        read=lambda split, name: iter(load()[name]),
    )


def _pictures(archive: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The archive's images, 84×84 (250 MB in all), with their names."""
    try:
        with tarfile.open(archive) as tar, tqdm(total=IMAGES, desc=f"Reading {ARCHIVE}", unit=" images") as bar:
            for member in tar:
                path = PurePath(member.name)
                inside = path.parent.parent.name == "images" and not path.name.startswith(".")
                if inside and member.isfile() and (file := tar.extractfile(member)) is not None:
                    yield member.name, decode(file.read(), f"{member.name} in {archive}", HOW)
                    bar.update()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(f"{archive} cannot be read ({error}): replace it, or remove it.") from error


def download_cub(data_dir: Path) -> None:
    """Fetch the official archive.

    Raises:
        BadInput: it may not be downloaded there, or cannot be had; says what to put where.
    """
    announce("CUB", data_dir, FOLDERS, FORMS, size="1.2 GB")
    target = data_dir / "cub" / ARCHIVE
    try:
        download(ARCHIVE_URLS, target, md5=ARCHIVE_MD5)
    except BadInput as error:
        raise BadInput(
            f"CUB is not in data_dir={data_dir}, and could not be downloaded: put {ARCHIVE} (md5 {ARCHIVE_MD5}) there, "
            f"as {target}, or one of its other forms ({FORMS}). Tried: {error}"
        ) from error
