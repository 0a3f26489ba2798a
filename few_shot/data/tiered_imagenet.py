"""tieredImageNet (Ren et al., ICLR 2018): 608 ImageNet classes, split by their superclasses."""

import tarfile
from array import array
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from few_shot.data import safe_pickle
from few_shot.data.base import ImageEpisodes
from few_shot.data.class_folders import find_published_folders, fingerprint, places
from few_shot.data.download import announce, check, download
from few_shot.data.image_store import Source, ensure_store
from few_shot.data.pictures import decode, preprocessing
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput
from few_shot.files import open_file
from few_shot.pickles import operations

# The folder itself comes last: it may hold another data set's classes.
FOLDERS = ("tiered_imagenet", "tiered-imagenet", "tieredimagenet", "")
ARCHIVE, ARCHIVE_MD5 = "tiered-imagenet.tar", "e07e811b9f29362d159a9edd0d838c62"
ARCHIVE_URLS = [
    "https://drive.usercontent.google.com/download?id=1g1aIDy2Ar_MViF2gDXFYDBTR-HYecV07&export=download&confirm=t"
]
FORMS = (
    "class folders {train,val,test}/<class>/*.jpg, {train,val,test}_images_png.pkl with {train,val,test}_labels.pkl, "
    f"or {ARCHIVE}"
)
SHAPE = (3, 84, 84)
HOW = preprocessing(SHAPE)  # the whole picture, as its authors' script


class Part(NamedTuple):
    """A file, or a file in an archive that is not compressed: from byte ``start`` of ``path``, ``size`` bytes."""

    path: Path
    name: str
    start: int
    size: int


@cache
def split_classes(split: str) -> tuple[str, ...]:
    """The WordNet ids of a split's classes: 351 to train, 97 to validate, 160 to test."""
    return tuple((Path(__file__).parent / "splits" / "tiered_imagenet" / f"{split}.txt").read_text().split())


class TieredImagenet(ImageEpisodes):
    """tieredImageNet: 608 ImageNet classes, 84×84; 351 to train (448 695 images), 97 to validate, 160 to test.

    No superclass is in two splits, so that test classes are less like the training classes than mini-ImageNet's are. It
    is looked for in a subfolder such as ``tiered_imagenet`` and in ``data_dir``, in this order of forms: class folders
    ``{train,val,test}/<class>/*.jpg``, all of a split's classes or some; ``{train,val,test}_images_png.pkl`` with
    ``{train,val,test}_labels.pkl``, which are read in pieces, a picture at a time; ``tiered-imagenet.tar`` with those
    in it. If there is none, the archive is downloaded (13 GB). The store takes 17 GB.
    """

    input_shape = image_shape = SHAPE

    def build_store(self) -> Path:
        """Find or download the images, decode them once, and return the store's folder."""
        return ensure_store(
            self.data_dir,
            "tiered_imagenet",
            SHAPE,
            find=lambda: find_tiered_imagenet(self.data_dir),
            download=lambda: download_tiered_imagenet(self.data_dir),
            preprocessing=HOW,
        )


def find_tiered_imagenet(data_dir: Path) -> Source | None:
    """The images in the first form that is there; None if there is none.

    Raises:
        BadInput: that form is incomplete or damaged, or a class is not one of its split.
    """
    for root in places(data_dir, FOLDERS):
        folders = find_published_folders("tieredImageNet", root, split_classes, HOW)
        if source := folders or _pickles(root) or _archive(root):
            return source
    return None


def _files() -> list[str]:
    return [f"{split}_{kind}.pkl" for split in SPLITS for kind in ("images_png", "labels")]


def _pickles(root: Path) -> Source | None:
    there = [root / name for name in _files() if (root / name).is_file()]
    if not there or (len(there) < len(_files()) and (root / ARCHIVE).is_file()):
        return None  # pickles that are missing beside the archive are read from it
    for name in _files():
        if root / name not in there:
            raise BadInput(f"{root / name} is missing.")
    parts = {path.name: Part(path, str(path), 0, path.stat().st_size) for path in there}
    return _source("pickles", there, lambda: parts)


def _archive(root: Path) -> Source | None:
    """``tiered-imagenet.tar`` with the pickles in it, read in place."""
    archive = root / ARCHIVE
    if not archive.is_file():
        return None

    @cache
    def parts() -> dict[str, Part]:
        check(archive, md5=ARCHIVE_MD5)
        try:
            with tarfile.open(archive, "r:") as tar:
                inside = {Path(m.name).name: m for m in tar if m.isfile()}
        except (tarfile.TarError, OSError, EOFError) as error:
            raise BadInput(f"{archive} cannot be read ({error}): replace it, or remove it.") from error
        for name in _files():
            if name not in inside:
                raise BadInput(f"{archive} holds no {name}: replace it, or remove it.")
        return {name: Part(archive, f"{m.name} in {archive}", m.offset_data, m.size) for name, m in inside.items()}

    return _source("archive of pickles", [archive], parts)


def _source(form: str, files: list[Path], parts: Callable[[], dict[str, Part]]) -> Source:
    @cache
    def labels() -> dict[str, tuple[list[str], NDArray[np.int64]]]:
        """Of each split its classes' names, unlike in all splits, and the class's number of each image."""
        read = {split: _read_labels(parts()[f"{split}_labels.pkl"]) for split in SPLITS}
        every = [name for names, _ in read.values() for name in names]
        return {
            split: ([n if every.count(n) == 1 else f"{n} ({split} {i})" for i, n in enumerate(names)], numbers)
            for split, (names, numbers) in read.items()
        }

    @cache
    def images(split: str) -> tuple[Part, NDArray[np.int64], bool]:
        part = parts()[f"{split}_images_png.pkl"]
        places, text = find_pngs(part)
        if len(places) != len(labels()[split][1]):
            raise BadInput(f"{part.name} holds {len(places)} images, and {len(labels()[split][1])} have labels.")
        return part, places, text

    def classes(split: str) -> dict[str, int]:
        images(split)
        names, numbers = labels()[split]
        counts = np.bincount(numbers, minlength=len(names))
        return {name: int(counts[names.index(name)]) for name in sorted(names)}

    def read(split: str, name: str) -> Iterator[NDArray[np.uint8]]:
        part, places, text = images(split)
        names, numbers = labels()[split]
        with open_file(part.path) as file:
            for row in np.flatnonzero(numbers == names.index(name)).tolist():
                start, size = places[row].tolist()
                file.seek(start)
                data = file.read(size)
                yield decode(data.decode().encode("latin1") if text else data, f"image {row} of {part.name}", HOW)

    return Source(form, fingerprint(path.stat() for path in files), classes, read)


def _read_labels(part: Part) -> tuple[list[str], NDArray[np.int64]]:
    """Read ``label_specific``, the class's number of each image, and ``label_specific_str``, the classes' names."""
    with open_file(part.path) as file:
        file.seek(part.start)
        data = safe_pickle.load(file, part.name, checked=part.start > 0)  # in the archive, whose checksum is known
    try:
        names = safe_pickle.texts(data["label_specific_str"])
        numbers = safe_pickle.whole_numbers(data["label_specific"])
        right = set(numbers.tolist()) == set(range(len(names)))
    except (LookupError, TypeError, ValueError, AttributeError):
        right = False
    if not right:
        raise BadInput(f"{part.name} does not hold label_specific and label_specific_str, a number and a name a class.")
    return names, numbers


def find_pngs(part: Part) -> tuple[NDArray[np.int64], bool]:
    """Where the PNG files lie in a pickle of arrays or bytes, without loading it: it may be larger than the memory.

    Returns:
        The first byte of each and how many there are, ``[n, 2]``, in their order; and whether the bytes are written as
        text, as Python 3 does in the old protocol 2.

    Raises:
        BadInput: it is no pickle, or cut off.
    """
    found, kinds = array("q"), set()
    try:
        with (
            open_file(part.path) as file,
            tqdm(total=part.size, desc=f"Looking through {part.name}", unit="B", unit_scale=True) as bar,
        ):
            file.seek(part.start)
            for operation in operations(file, part.start + part.size):
                if operation.head.startswith((b"\x89PNG", b"\xc2\x89PNG")):
                    found.extend((operation.start, operation.size))
                    kinds.add(operation.head.startswith(b"\xc2"))  # in UTF-8
                    bar.update(operation.start - part.start - bar.n)
    except (ValueError, OSError) as error:
        raise BadInput(f"{part.name} is no whole pickle ({error}): replace it, or remove it.") from error
    if len(kinds) != 1:
        raise BadInput(f"{part.name} holds no PNG images: replace it, or remove it.")
    return np.asarray(found).reshape(-1, 2), kinds.pop()


def download_tiered_imagenet(data_dir: Path) -> None:
    """Fetch the archive.

    Raises:
        BadInput: it may not be downloaded there, or cannot be had; says what to put where.
    """
    announce("tieredImageNet", data_dir, FOLDERS, FORMS, size="13 GB")
    target = data_dir / "tiered_imagenet" / ARCHIVE
    try:
        download(ARCHIVE_URLS, target, md5=ARCHIVE_MD5)
    except BadInput as error:
        raise BadInput(
            f"tieredImageNet is not in data_dir={data_dir}, and could not be downloaded: put {ARCHIVE} (md5 "
            f"{ARCHIVE_MD5}) there, as {target}, or one of its other forms ({FORMS}). ImageNet's terms of use apply "
            f"(https://image-net.org/download). Tried: {error}"
        ) from error
