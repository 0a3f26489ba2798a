"""mini-ImageNet (Vinyals et al. 2016), in the split of Ravi & Larochelle (ICLR 2017), from any of its usual forms."""

import csv
import io
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from few_shot.data import safe_pickle
from few_shot.data.base import ImageEpisodes
from few_shot.data.class_folders import FileReader, Place, find_class_folders, fingerprint, places, scan, stat
from few_shot.data.download import announce, check, download, made
from few_shot.data.image_store import Source, ensure_store
from few_shot.data.pictures import preprocessing
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput
from few_shot.files import open_file, read_bytes
from few_shot.limits import LIST_BYTES

# The folder itself comes last: it may hold another data set's classes.
FOLDERS = ("mini_imagenet", "mini-imagenet", "miniimagenet", "")
ARCHIVE, ARCHIVE_MD5 = "mini-imagenet.tar.gz", "b38f1eb4251fb9459ecc8e7febf9b2eb"
ARCHIVE_URLS = [
    f"https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
    for id in ("16V_ZlkW4SsnNDtnGmaBRq2OoPmUOc5mY", "1LLUjwSUpWGSWizl3JZxd08V30_dIaRBx")
]
# The same images, as the learn2learn project keeps them: loose pickles without a published checksum. What they must
# hold (every class of the split, 600 images each) is checked when they are read.
PICKLE_URLS = ["https://zenodo.org/records/7978538/files/{}?download=1"]
PICKLE_NAMES = {"train": "train", "val": "validation", "test": "test"}
SHAPE = (3, 84, 84)
HOW = preprocessing(SHAPE)  # the whole picture, as in Ravi and Larochelle's script
FORMS = (
    "class folders {train,val,test}/<class>/*.jpg, images/*.jpg with train.csv, val.csv and test.csv (filename,label), "
    f"mini-imagenet-cache-{{train,val,test}}.pkl, or {ARCHIVE}"
)
IMAGES = 600  # of each class

Pickle = tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]  # images [n, 84, 84, 3], and each class's rows


@cache
def split_classes(split: str) -> frozenset[str]:
    """The WordNet ids of a split's classes: 64 for training, 16 for validation, 20 for the test."""
    return frozenset((Path(__file__).parent / "splits" / "mini_imagenet" / f"{split}.txt").read_text().split())


class MiniImagenet(ImageEpisodes):
    """mini-ImageNet: 100 ImageNet classes of 600 images, 84×84, 64 classes to train, 16 to validate, 20 to test.

    It is looked for in a subfolder such as ``mini_imagenet`` and in ``data_dir``, in this order of forms: class folders
    ``{train,val,test}/<class>/*.jpg``; ``images/*.jpg`` with ``train.csv``, ``val.csv`` and ``test.csv``;
    ``mini-imagenet-cache-{train,val,test}.pkl``; ``mini-imagenet.tar.gz``. If there is none, it is downloaded.
    Class folders and CSV files may hold other classes than mini-ImageNet's, of images of any size. A picture that lies
    in two of those is refused; mini-ImageNet itself has seven, six of them in its training and its validation split,
    and is left as it was published.
    """

    input_shape = image_shape = SHAPE

    def build_store(self) -> Path:
        """Find or download the images, decode them once, and return the store's folder."""
        return ensure_store(
            self.data_dir,
            "mini_imagenet",
            SHAPE,
            find=lambda: find_mini_imagenet(self.data_dir),
            download=lambda: download_mini_imagenet(self.data_dir),
            preprocessing=HOW,
        )


def find_mini_imagenet(data_dir: Path) -> Source | None:
    """The images in the first form that is there; None if there is none.

    Raises:
        BadInput: that form is incomplete or damaged, or its classes are not in the split they belong to.
    """
    for root in places(data_dir, FOLDERS):
        for find in (_class_folders, _csv_files, _pickles, _archive):
            if source := find(root):
                return replace(source, classes=_in_their_split(source.classes))
    return None


def _in_their_split(classes: Callable[[str], dict[str, int]]) -> Callable[[str], dict[str, int]]:
    """Refuse mini-ImageNet's own classes in another split than theirs; other classes go where the user put them."""

    def checked(split: str) -> dict[str, int]:
        found = classes(split)
        strangers = set(found) - split_classes(split)
        if strangers and strangers < frozenset().union(*map(split_classes, SPLITS)):
            name = min(strangers)
            right = next(s for s in SPLITS if name in split_classes(s))
            raise BadInput(f"Class {name} is in the {split} split, but belongs in mini-ImageNet's {right} split.")
        return found

    return checked


def _class_folders(root: Path) -> Source | None:
    return find_class_folders(root, HOW, _was_published)


def _was_published(first: Place, second: Place) -> bool:
    """Whether two places of one picture may be mini-ImageNet's own."""
    own = frozenset().union(*map(split_classes, SPLITS))
    return {first.class_name, second.class_name} <= own and first.path.name != second.path.name


def _csv_files(root: Path) -> Source | None:
    """``images/`` and a CSV file per split, with columns ``filename`` and ``label``."""
    tables: dict[str, Path] = {split: root / f"{split}.csv" for split in SPLITS}
    images = root / "images"
    if not images.is_dir() or not any(table.is_file() for table in tables.values()):
        return None
    for split, table in tables.items():
        if not table.is_file():
            raise BadInput(f"{table} is missing: it lists the images of the {split} split (filename,label).")
    present = {entry.name: entry for entry in scan(images)}

    @cache
    def reader() -> FileReader:
        files = {split: _read_table(table) for split, table in tables.items()}
        listed: dict[str, Place] = {}
        for split, classes in files.items():
            for name, rows in classes.items():
                if missing := set(rows) - present.keys():
                    raise BadInput(f"{images / min(missing)} is missing, but {tables[split]} lists it.")
                for row in rows:
                    other = listed.setdefault(row, Place(split, name, tables[split]))
                    if other != (split, name, tables[split]):
                        raise BadInput(
                            f"{row} is in {other.path.name} as {other.class_name} and in {split}.csv as {name}: an "
                            "image belongs to one class of one split. Remove one of the rows."
                        )
        paths = {s: {name: [images / row for row in rows] for name, rows in c.items()} for s, c in files.items()}
        return FileReader(paths, HOW, _was_published)

    return Source(
        form="images and CSV files",
        fingerprint=fingerprint(
            [images.stat(), *(t.stat() for t in tables.values()), *map(stat, present.values())], present
        ),
        classes=lambda split: reader().classes(split),
        read=lambda split, name: reader().read(split, name),
        verify=lambda: reader().verify(),
    )


def _read_table(table: Path) -> dict[str, list[str]]:
    """Each label's file names, both sorted."""
    files = defaultdict(set)
    try:
        text = read_bytes(table, LIST_BYTES).decode("utf-8-sig")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            if not row["label"] or not row["filename"]:
                raise ValueError("an empty field")
            files[row["label"]].add(row["filename"])
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise BadInput(f"{table} is no table of the columns filename and label ({error!r}).") from error
    return {name: sorted(files[name]) for name in sorted(files)}


def _pickles(root: Path) -> Source | None:
    """``mini-imagenet-cache-{train,val,test}.pkl``; the middle one may be called ``validation``."""
    pickles: dict[str, Path] = {split: root / f"mini-imagenet-cache-{split}.pkl" for split in SPLITS}
    if not pickles["val"].is_file():
        pickles["val"] = root / "mini-imagenet-cache-validation.pkl"
    missing = [split for split in SPLITS if not pickles[split].is_file()]
    # Pickles that are missing beside an archive are read from the archive.
    if len(missing) == len(SPLITS) or (missing and (root / ARCHIVE).is_file()):
        return None
    if missing:
        raise BadInput(f"{pickles[missing[0]]} is missing: the {missing[0]} split.")

    def load(split: str) -> Pickle:
        with open_file(pickles[split]) as file:
            return _read_pickle(file, pickles[split])

    return _pickled("pickles", list(pickles.values()), load)


def _archive(root: Path) -> Source | None:
    """``mini-imagenet.tar.gz`` with the pickles in it, read in place."""
    archive = root / ARCHIVE
    if not archive.is_file():
        return None

    def load(split: str) -> Pickle:
        if split == SPLITS[0]:
            check(archive, md5=ARCHIVE_MD5)
        names = [f"mini-imagenet-cache-{s}.pkl" for s in ((split, "validation") if split == "val" else (split,))]
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    if member.isfile() and Path(member.name).name in names:
                        return _read_pickle(tar.extractfile(member), f"{member.name} in {archive}", checked=True)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise BadInput(f"{archive} cannot be read ({error}).") from error
        raise BadInput(f"{archive} holds no {names[0]}.")

    return _pickled("archive of pickles", [archive], load)


def _pickled(form: str, files: list[Path], load: Callable[[str], Pickle]) -> Source:
    loaded: dict[str, Pickle] = {}

    def get(split: str) -> Pickle:
        if split not in loaded:
            loaded.clear()  # a pickle cannot be read in part, but one split at a time will do
            loaded[split] = load(split)
        return loaded[split]

    def read(split: str, name: str) -> Iterator[NDArray[np.uint8]]:
        images, rows = get(split)
        return (images[row].transpose(2, 0, 1) for row in rows[name])

    return Source(
        form,
        fingerprint(file.stat() for file in files),
        classes=lambda split: {name: len(rows) for name, rows in sorted(get(split)[1].items())},
        read=read,
    )


def _read_pickle(file: Any, name: Path | str, checked: bool = False) -> Pickle:
    """Read ``image_data`` uint8 ``[n, 84, 84, 3]`` and ``class_dict``, which maps a class to its rows."""
    data = safe_pickle.load(file, name, checked)
    try:
        images = np.asarray(data["image_data"])
        classes = safe_pickle.texts(data["class_dict"])
        each = map(safe_pickle.whole_numbers, data["class_dict"].values())
        rows = dict(zip(classes, each, strict=True))
        right = images.dtype == np.uint8 and images.shape[1:] == (84, 84, 3) and len(rows) > 0
        for r in rows.values():
            right = right and len(r) > 0 and 0 <= r.min() <= r.max() < len(images)
            right = right and len(np.unique(r)) == len(r)
    except (LookupError, TypeError, ValueError, AttributeError):
        right = False
    if not right:
        raise BadInput(
            f"{name} does not hold image_data uint8 [n, 84, 84, 3] and class_dict {{class: different rows}}."
        )
    return images, rows


def download_mini_imagenet(data_dir: Path) -> None:
    """Fetch the archive or, where that fails, the three loose pickles.

    Raises:
        BadInput: no source delivers; says what to put where.
    """
    announce("mini-ImageNet", data_dir, FOLDERS, FORMS, size="1 GB")
    root = data_dir / "mini_imagenet"
    try:
        download(ARCHIVE_URLS, root / ARCHIVE, md5=ARCHIVE_MD5)
    except BadInput as no_archive:
        try:
            _download_pickles(root)
        except (BadInput, OSError) as no_pickles:
            raise BadInput(
                f"mini-ImageNet is not in data_dir={data_dir}, and could not be downloaded: put into {root} {FORMS} "
                f"(md5 {ARCHIVE_MD5}). ImageNet's terms of use apply (https://image-net.org/download). "
                f"Tried: {no_archive} {no_pickles}"
            ) from no_pickles


def _download_pickles(root: Path) -> None:
    """Fetch all three, check that they hold every class of their split, whole, and put them in place."""
    with made(root), tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch:
        files = {split: f"mini-imagenet-cache-{PICKLE_NAMES[split]}.pkl" for split in SPLITS}
        for split, file in files.items():
            path = Path(scratch) / file
            download([url.format(file) for url in PICKLE_URLS], path)
            with open(path, "rb") as opened:
                _, rows = _read_pickle(opened, file)
            if {name: len(r) for name, r in rows.items()} != dict.fromkeys(split_classes(split), IMAGES):
                raise BadInput(f"{file} does not hold the {split} split of mini-ImageNet.")
        for file in files.values():
            (Path(scratch) / file).rename(root / file)
