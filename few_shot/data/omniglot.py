"""Omniglot (Lake et al. 2015): 1623 handwritten characters of 50 alphabets, 20 drawings each."""

import lzma
import os
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from few_shot.data.augment import OF_DRAWINGS
from few_shot.data.base import ImageEpisodes
from few_shot.data.class_folders import Entry, fingerprint, scan, stat
from few_shot.data.download import announce, download
from few_shot.data.image_store import ImageStore, Source, ensure_store
from few_shot.data.pictures import Preprocessing, decode, preprocessing
from few_shot.episodes import SPLITS, Split
from few_shot.errors import BadInput
from few_shot.files import open_file, read_bytes, shortened
from few_shot.limits import ARCHIVE_BYTES, PICTURE_BYTES, in_words

FOLDERS = ("", "omniglot", "Omniglot", "omniglot-py", "omniglot/python")
# Each half's number of characters, and the md5 of its original archive. Repacked archives are as good: they are
# judged by what they hold.
HALVES = {
    "images_background": (964, "68d2efa1b9178cc56df9314c21c6e718"),
    "images_evaluation": (659, "6b91aef0f799c5bb55b94e3f2daec811"),
}
URLS = [
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{}.zip",
    "https://github.com/brendenlake/omniglot/raw/master/python/{}.zip",
]
SHAPE = (1, 28, 28)
HOW = preprocessing(SHAPE, binary_from=105, invert=True)  # ink is black on the disk
DRAWINGS = 20
# What zipfile raises for a damaged archive, and for one that is encrypted or compressed in a way that it does not know.
_NOT_READ = (OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


@cache
def split_characters(split: str) -> tuple[str, ...]:
    """A split's characters, ``Alphabet/characterNN``, sorted."""
    return tuple((Path(__file__).parent / "splits" / "omniglot" / f"{split}.txt").read_text().split())


class Omniglot(ImageEpisodes):
    """Omniglot, 28×28, ink 1 on background 0: 1100 characters to train, 100 to validate, 423 to test.

    The paper's 1200 characters to train are our training and validation characters together, so that no validation
    character is ever trained on; its other 423 are the test. Which they are is fixed in ``splits/omniglot``: all 1623
    names sorted, shuffled by ``random.Random(0).shuffle``, and cut.

    As in the code of MAML (Finn et al. 2017), pixels are 1 or 0, taken from the 105×105 drawing by nearest neighbour.
    Each class of a task is a different character, turned by 0°, 90°, 180° or 270°, in every split (Santoro et al.
    2016).

    ``images_background`` and ``images_evaluation`` are looked for in ``data_dir`` and in a subfolder such as
    ``omniglot`` or torchvision's ``omniglot-py``, as zip archives (original or repacked) or extracted. What is missing
    is downloaded.

    Args:
        rotations: whether a task's characters are rotated.

    Raises:
        BadInput: so many train_classes are asked for, and rotations too.
    """

    input_shape = image_shape = SHAPE
    augmentation = OF_DRAWINGS

    def __init__(self, rotations: bool = True, **base) -> None:
        super().__init__(**base)
        if rotations and self.train_classes is not None:
            raise BadInput(f"train_classes={self.train_classes} needs rotations=false: it counts upright characters.")
        self.rotations = rotations
        self.variants = 4 if rotations else 1

    @property
    def preprocessing(self) -> Preprocessing:
        return HOW.copy()

    def build_store(self) -> Path:
        """Find or download the images, decode them once, and return the store's folder."""
        return ensure_store(
            self.data_dir,
            "omniglot_binary",
            SHAPE,
            find=lambda: find_omniglot(self.data_dir),
            download=lambda: download_omniglot(self.data_dir),
            preprocessing=HOW,
        )

    def open_store(self, folder: Path, split: Split) -> ImageStore:
        """Open a split; without rotations, only the upright characters, which come first."""
        return ImageStore.open(folder, split, None if self.rotations else len(split_characters(split)))


def find_omniglot(data_dir: Path) -> Source | None:
    """Both halves, each from the first place that has it; None if one is nowhere.

    Raises:
        BadInput: a half is there but is incomplete or damaged.
    """
    if data_dir.exists():
        scan(data_dir)  # raises if it is no folder, or may not be read
    paths = {half: path for half in HALVES if (path := _find_half(data_dir, half)) is not None}
    if len(paths) < len(HALVES):
        return None

    @cache
    def drawings() -> dict[str, list[tuple[str, bytes]]]:
        found: dict[str, list[tuple[str, bytes]]] = {}
        for half, path in paths.items():
            found |= _read_half(path, characters=HALVES[half][0])
        if strangers := found.keys() ^ {c for split in SPLITS for c in split_characters(split)}:
            raise BadInput(f"{data_dir} does not hold Omniglot's characters: {min(strangers)} is missing or unknown.")
        return found

    @cache
    def upright(character: str) -> NDArray[np.uint8]:
        """``[20, 1, 28, 28]``, ink high."""
        return np.stack([decode(data, name, HOW) for name, data in drawings()[character]])

    def classes(split: str) -> dict[str, int]:
        drawings()
        turned = ("", "/rot90", "/rot180", "/rot270")
        return {c + turn: DRAWINGS for turn in turned for c in split_characters(split)}

    def read(split: str, name: str) -> NDArray[np.uint8]:
        character, _, degrees = name.partition("/rot")
        return np.rot90(upright(character), int(degrees or 0) // 90, axes=(2, 3))

    form = " and ".join(path.name for path in paths.values())
    return Source(form, fingerprint(facts for path in paths.values() for facts in _stats(path)), classes, read)


def _find_half(data_dir: Path, half: str) -> Path | None:
    """Its archive or its extracted folder, in the first place that has one."""
    for root in (data_dir / folder for folder in FOLDERS):
        if (root / f"{half}.zip").is_file():
            return root / f"{half}.zip"
        if (root / half).is_dir():
            return root / half
    return None


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of an archive, or of an extracted half's characters and drawings."""
    if path.is_file():
        yield path.stat()
        return
    for alphabet in _folders(path):
        for character in _folders(alphabet.path):
            yield stat(character)
            yield from map(stat, scan(character.path))


def _folders(path: Path | str) -> list[Entry]:
    return [entry for entry in scan(path) if entry.is_folder]


def _read_half(path: Path, characters: int) -> dict[str, list[tuple[str, bytes]]]:
    """The PNG files of each ``Alphabet/characterNN``, sorted by name; 7 MB in all.

    Raises:
        BadInput: the half cannot be read, or is not so many characters of 20 drawings each.
    """
    found: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    try:
        for name, data in sorted(_zip_members(path) if path.is_file() else _files(path)):
            found["/".join(PurePath(name).parts[-3:-1])].append((f"{name} in {path}", data))
    except _NOT_READ as error:
        reason = shortened(error, 300)
        raise BadInput(f"{path} cannot be read ({reason}): replace it, or remove it to have it downloaded.") from error
    wrong = [c for c, drawings in found.items() if len(drawings) != DRAWINGS]
    if len(found) != characters or wrong:
        detail = f"{len(found[wrong[0]])} of {wrong[0]}" if wrong else f"{len(found)} characters"
        raise BadInput(
            f"{path} must hold {characters} characters of {DRAWINGS} drawings each, but has {detail}: replace it, or "
            "remove it to have it downloaded."
        )
    return found


def _zip_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with open_file(archive) as file, zipfile.ZipFile(file) as z:
        if (size := sum(member.file_size for member in z.infolist())) > ARCHIVE_BYTES:
            raise zipfile.BadZipFile(f"it unpacks to {in_words(size)}, and {in_words(ARCHIVE_BYTES)} is the most")
        for name in z.namelist():
            if name.endswith(".png") and not PurePath(name).name.startswith("."):
                yield name, z.read(name)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for alphabet in _folders(folder):
        for character in _folders(alphabet.path):
            for file in scan(character.path):
                if file.name.endswith(".png"):
                    yield str(Path(file.path).relative_to(folder)), read_bytes(file.path, PICTURE_BYTES)


def download_omniglot(data_dir: Path) -> None:
    """Fetch the halves that are missing.

    Raises:
        BadInput: no source delivers; says what to put where.
    """
    own = (*FOLDERS, *HALVES, *(f"{half}.zip" for half in HALVES))
    forms = "images_background and images_evaluation, as folders or zip archives"
    announce("Omniglot", data_dir, own, forms, size="17 MB")
    for half, (_, md5) in HALVES.items():
        if _find_half(data_dir, half) is None:
            target = data_dir / "omniglot" / f"{half}.zip"
            try:
                download([url.format(half) for url in URLS], target, md5=md5)
            except BadInput as error:
                raise BadInput(
                    f"Omniglot's {half}.zip is not in data_dir={data_dir}, and could not be downloaded: put it "
                    f"there, as {target}, from {URLS[0].format(half)}. Tried: {error}"
                ) from error
