"""Images in class folders, ``{train,val,test}/<class>/<image>``, and what every form of image files needs."""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from few_shot.data.image_store import Source
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

SUFFIXES = (".jpg", ".jpeg", ".png")
# What Pillow raises for damaged files of various kinds.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def find_class_folders(root: Path, image_shape: tuple[int, int, int]) -> Source | None:
    """Class folders of the three splits in ``root`` (``validation`` for ``val`` will do); None if there are none.

    Raises:
        BadInput: a split is missing, a class is empty, or a folder cannot be read.
    """
    folders = {split: root / split for split in SPLITS}
    if (root / "validation").is_dir() and not folders["val"].is_dir():
        folders["val"] = root / "validation"
    missing = [split for split in SPLITS if not folders[split].is_dir()]
    if len(missing) == len(SPLITS):
        return None
    if missing:
        raise BadInput(f"{root} has class folders, but the {missing[0]} split is missing: {folders[missing[0]]}.")

    files: dict[str, dict[str, list[Path]]] = {}
    stats: list[os.stat_result] = []
    for split, folder in folders.items():
        classes = [entry for entry in scan(folder) if entry.is_dir()]
        if not classes:
            raise BadInput(f"{folder} holds no class folders: the {split} split is empty.")
        files[split] = {}
        for entry in classes:
            images = [image for image in scan(entry.path) if image.name.lower().endswith(SUFFIXES)]
            if not images:
                raise BadInput(f"{entry.path} holds no images ({', '.join(SUFFIXES)}): fill or remove this class.")
            files[split][entry.name] = [Path(image.path) for image in images]
            stats += [entry.stat(), *(image.stat() for image in images)]  # a class's own date tells of renamed files
    return Source(
        form="class folders",
        fingerprint=fingerprint(stats),
        classes=lambda split: {name: len(images) for name, images in files[split].items()},
        read=lambda split, name: read_images(files[split][name], image_shape),
    )


def scan(folder: Path | str) -> list[os.DirEntry]:
    """What a folder holds, sorted by name, without hidden files.

    Raises:
        BadInput: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise BadInput(f"{folder} cannot be read as a folder ({error.strerror}).") from error


def fingerprint(stats: Iterable[os.stat_result]) -> dict[str, int]:
    """Number of files (and class folders), their bytes and the newest date, in nanoseconds."""
    stats = list(stats)
    return {
        "files": len(stats),
        "bytes": sum(s.st_size for s in stats),
        "newest": max((s.st_mtime_ns for s in stats), default=0),
    }


def read_images(paths: Iterable[Path], image_shape: tuple[int, int, int]) -> Iterator[NDArray[np.uint8]]:
    """Decode image files one after the other."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                yield read_image(file, path, image_shape)
        except OSError as error:
            raise BadInput(f"{path} cannot be read ({error.strerror}).") from error


def read_image(file: BinaryIO, name: Path | str, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Decode an image to uint8 ``image_shape`` ``[C, H, W]``, grey for one channel and RGB for three.

    Raises:
        BadInput: the file is no image, or is cut off; ``name`` is what to call it.
    """
    channels, height, width = image_shape
    try:
        with Image.open(file) as stored:
            image = stored.convert("L" if channels == 1 else "RGB")
    except _DAMAGED as error:
        raise BadInput(f"{name} cannot be decoded as an image ({error}): replace it, or remove it.") from error
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
