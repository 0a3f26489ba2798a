"""Pictures in class folders, ``{train,val,test}/<class>/<picture>``, and what every form of image files needs."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from few_shot.data.image_store import Source
from few_shot.data.pictures import BadPicture, Preprocessing, decode, formats
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput
from few_shot.files import read_bytes
from few_shot.limits import PICTURE_BYTES

# What a split's folder may be called, in any case.
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
# What systems leave in folders of pictures, besides names that start with a dot.
_NOT_THE_USERS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}

Files = dict[str, dict[str, list[Path]]]  # split -> class -> its files
SplitClasses = Callable[[str], tuple[str, ...]]  # maps a split to its published classes


class Place(NamedTuple):
    """Where a picture lies."""

    split: str
    class_name: str
    path: Path


@cache
def suffixes() -> frozenset[str]:
    """The ends of file names, in lower case, of pictures."""
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in formats())


def places(data_dir: Path, names: Sequence[str]) -> list[Path]:
    """Those of these subfolders of ``data_dir`` that there are, in any case; ``""`` is ``data_dir`` itself.

    Raises:
        BadInput: ``data_dir`` is no folder, or may not be read.
    """
    if not data_dir.exists():
        return []
    there = {entry.name.lower(): Path(entry.path) for entry in scan(data_dir) if entry.is_folder}
    return [path for name in names if (path := there.get(name.lower()) if name else data_dir) is not None]


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits in ``root``, as many as there are.

    Raises:
        BadInput: a split has two, or ``root`` cannot be read.
    """
    found: dict[str, Path] = {}
    for entry in scan(root) if root.is_dir() else []:
        for split, names in SPLIT_NAMES.items():
            if entry.name.lower() in names and entry.is_folder:
                if split in found:
                    raise BadInput(f"{root} holds {found[split].name} and {entry.name}: keep one {split} folder.")
                found[split] = Path(entry.path)
    return found


def find_class_folders(
    root: Path, how: Preprocessing, may_repeat: Callable[[Place, Place], bool] | None = None
) -> Source | None:
    """Class folders of the three splits in ``root``; None if there are none.

    Args:
        root: where ``train``, ``val`` (or ``validation``) and ``test`` lie, in any case.
        how: the preprocessing.
        may_repeat: whether one picture may lie in two classes' folders; None to allow it.

    Raises:
        BadInput: a split is missing, a class is empty, or a folder cannot be read.
    """
    folders = split_folders(root)
    if not folders:
        return None
    for split in SPLITS:
        if split not in folders:
            raise BadInput(f"{root} has class folders, but the {split} split is missing: {root / split}.")

    files: Files = {}
    stats: list[os.stat_result] = []
    for split in SPLITS:
        classes = [entry for entry in scan(folders[split]) if entry.is_folder]
        if not classes:
            raise BadInput(f"{folders[split]} holds no class folders: the {split} split is empty.")
        files[split] = {}
        for entry in classes:
            images = [image for image in scan(entry.path) if Path(image.name).suffix.lower() in suffixes()]
            if not images:
                raise BadInput(f"{entry.path} holds no images (jpg, png, …): fill or remove this class.")
            files[split][entry.name] = [Path(image.path) for image in images]
            stats += [stat(entry), *map(stat, images)]  # a class's own date tells of renamed files
    reader = FileReader(files, how, may_repeat)
    names = [f"{s}/{c}/{path.name}" for s, classes in files.items() for c, paths in classes.items() for path in paths]
    return Source("class folders", fingerprint(stats, names), reader.classes, reader.read, verify=reader.verify)


def find_published_folders(title: str, root: Path, split_classes: SplitClasses, how: Preprocessing) -> Source | None:
    """Class folders of a data set whose classes and splits are published: all of a split's classes, or some.

    Raises:
        BadInput: as above, or a class is not of its split.
    """
    source = find_class_folders(root, how)
    if source is None:
        return None

    def classes(split: str) -> dict[str, int]:
        found = source.classes(split)
        if strangers := found.keys() - set(split_classes(split)):
            name = min(strangers)
            right = [s for s in SPLITS if name in split_classes(s)]
            belongs = f"belongs in its {right[0]} split" if right else "is none of its classes"
            raise BadInput(f"Class {name} in {root / split} is not of {title}'s {split} split: it {belongs}.")
        return found

    return replace(source, classes=classes)


class FileReader:
    """Reads a split's and class's files, and sees to it that none lies in two places.

    Args:
        files: the files of each split and class.
        how: the preprocessing.
        may_repeat: whether one picture may lie in both of two places; None to allow it, and not to look.
    """

    def __init__(
        self, files: Files, how: Preprocessing, may_repeat: Callable[[Place, Place], bool] | None = None
    ) -> None:
        self.files, self.how, self.may_repeat = files, how, may_repeat
        self.repeated: list[tuple[Place, Place]] = []
        self._seen: dict[bytes, Place] = {}  # by the files' content
        self.first_of: dict[Path, Place] = {}  # by the path of a file that has been seen before, where that was

    def classes(self, split: str) -> dict[str, int]:
        """The numbers of files."""
        return {name: len(paths) for name, paths in self.files[split].items()}

    def read(self, split: str, class_name: str) -> Iterator[NDArray[np.uint8]]:
        """Decode a class's files one after the other; several classes may be read at once."""
        for path in self.files[split][class_name]:
            yield self.read_one(Place(split, class_name, path))

    def read_one(self, place: Place) -> NDArray[np.uint8]:
        """Decode a file, ``[C, H, W]``.

        Raises:
            BadPicture: it cannot be read, or is no picture.
        """
        try:
            content = read_bytes(place.path, PICTURE_BYTES)
        except OSError as error:
            raise BadPicture(place.path, "read", str(error.strerror)) from error
        picture = decode(content, place.path, self.how)
        if self.may_repeat is not None:
            first = self._seen.setdefault(hashlib.sha256(content).digest(), place)
            if first is not place:
                if not self.may_repeat(first, place):
                    self.repeated.append((first, place))
                self.first_of[place.path] = first
        return picture

    def verify(self) -> None:
        """Refuse pictures that lie in two places.

        Raises:
            BadInput: there are some; the message names them.
        """
        if self.repeated:
            raise BadInput(repetitions(self.repeated))


def repetitions(pairs: Iterable[tuple[Place, Place]]) -> str:
    """What is wrong with pictures that lie in two places."""
    both = sorted(sorted(str(place.path) for place in pair) for pair in pairs)
    return (
        f"The same picture lies in two classes or splits, which makes a test result false: "
        f"{some([f'{a} is {b}' for a, b in both])}. Remove one of each two."
    )


def some(names: Sequence[str], shown: int = 10) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


class Entry(NamedTuple):
    """What a folder holds. A link is what it leads to; one that leads nowhere, or in a circle, is no folder."""

    name: str
    path: str
    is_folder: bool


def scan(folder: Path | str) -> list[Entry]:
    """What a folder holds, sorted by name, without hidden files and those that systems leave (``Thumbs.db``, …).

    Raises:
        BadInput: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            users = (e for e in entries if not e.name.startswith(".") and e.name.lower() not in _NOT_THE_USERS)
            return sorted(Entry(e.name, e.path, _is_folder(e)) for e in users)
    except OSError as error:
        raise BadInput(f"{folder} cannot be read as a folder ({error.strerror}).") from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into a folder that may not be entered
        return False


def stat(entry: Entry) -> os.stat_result:
    """A file's size and date; of a link that leads nowhere, its own.

    Raises:
        BadInput: the folder that it lies in may be listed, but not entered.
    """
    try:
        return os.stat(entry.path)
    except OSError:
        pass
    try:
        return os.lstat(entry.path)
    except OSError as error:
        raise BadInput(f"{entry.path} cannot be read ({error.strerror}).") from error


def fingerprint(stats: Iterable[os.stat_result], names: Iterable[str] = ()) -> dict[str, int | str]:
    """What changes when the files (and class folders) do: their number, and a digest of sizes, dates and names."""
    lines = [f"{s.st_size}/{s.st_mtime_ns}" for s in stats]
    digest = hashlib.sha256(os.fsencode("\n".join([*lines, *names]))).hexdigest()
    return {"files": len(lines), "digest": digest}
