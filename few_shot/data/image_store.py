"""Decoded images, sorted by class, in one memory-mapped uint8 file per split: built once, gathered by row."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from few_shot.data.pictures import Preprocessing
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput
from few_shot.files import open_file, read_bytes, same_spelling
from few_shot.limits import COUNT, LIST_BYTES

FORMAT_VERSION = 2

Fingerprint = Mapping[str, int | str]


@dataclass(frozen=True)
class Source:
    """The images as they lie on the user's disk.

    Args:
        form: what they lie in, such as "class folders".
        fingerprint: numbers that change when the files do, cheap to get.
        classes: maps a split to its classes, in the order of the store, and their numbers of images.
        read: maps a split and a class to the class's images, uint8 ``[C, H, W]`` each; there may be fewer than
            ``classes`` said, which must not be silent.
        check: called before anything is written; raises BadInput where there is no point in reading.
        verify: called when all is read; raises BadInput where the images together cannot be used.
        notes: called after that; what the manifest is to hold besides.
    """

    form: str
    fingerprint: Fingerprint
    classes: Callable[[str], dict[str, int]]
    read: Callable[[str, str], Iterable[NDArray[np.uint8]]]
    check: Callable[[], None] = lambda: None
    verify: Callable[[], None] = lambda: None
    notes: Callable[[], dict] = dict


@dataclass(frozen=True)
class ImageStore:
    """Classes of one split of a built store; class c's images are rows ``class_starts[c]`` … ``+ class_sizes[c]``."""

    folder: Path
    split: str
    images: NDArray[np.uint8]  # [n, C, H, W], memory-mapped
    class_names: list[str]
    class_sizes: NDArray[np.int64]
    class_starts: NDArray[np.int64]
    chosen: tuple[int, ...] | None = None  # which of the split's classes these are; None for all
    _file: "_File | None" = field(default=None, repr=False, compare=False)
    _near: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path, split: str, classes: int | Sequence[int] | None = None) -> "ImageStore":
        """Open a split, or only its first so many classes, or those of these numbers.

        Raises:
            BadInput: there is no complete store of this version in the folder.
        """
        try:
            manifest = read_manifest(folder)
            listed = manifest["splits"][split]
            sizes = np.asarray(listed["class_sizes"], dtype=np.int64)
            images, file = _map(folder / f"{split}.npy", (int(sizes.sum()), *manifest["image_shape"]))
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{folder} holds no usable {split} images ({error}): delete it to build it again."
            ) from error
        chosen = None if classes is None else tuple(range(classes) if isinstance(classes, int) else classes)
        numbers = np.arange(len(sizes)) if chosen is None else np.asarray(chosen, dtype=np.int64)
        starts = np.cumsum(sizes) - sizes
        used = int((starts + sizes)[numbers].max(initial=0))
        names = [listed["class_names"][i] for i in numbers]
        return cls(folder, split, images[:used], names, sizes[numbers], starts[numbers], chosen, file)

    def select(self, classes: Sequence[int]) -> "ImageStore":
        """The same split, of some of these classes alone, by their numbers."""
        return ImageStore.open(self.folder, self.split, [self._number(i) for i in classes])

    def _number(self, i: int) -> int:
        """The number in the whole split of class ``i`` of these."""
        return i if self.chosen is None else self.chosen[i]

    def first(self, classes: int) -> "ImageStore":
        """The same split, of its first so many classes alone.

        Raises:
            BadInput: it has fewer.
        """
        if not 0 < classes <= len(self.class_names):
            there = len(self.class_names)
            raise BadInput(f"train_classes={classes} must be at least 1 and at most the {there} there are.")
        return self.select(range(classes))

    def digest(self) -> str:
        """Tells these images, in this order, from others: a checksum of each class's number, first and last image."""
        ends = np.stack([self.class_starts, self.class_starts + self.class_sizes - 1], axis=1)
        return hashlib.sha256(self.class_sizes.tobytes() + self.images[ends].tobytes()).hexdigest()[:16]

    def classes_of(self, rows: NDArray) -> NDArray[np.int64]:
        """The number, among these classes, of the class that each row belongs to."""
        order = np.argsort(self.class_starts)
        return order[np.searchsorted(self.class_starts[order], rows, side="right") - 1]

    def gather(self, rows: Tensor) -> Tensor:
        """The images of ``rows``, uint8 ``[*rows.shape, C, H, W]``, on the device that the rows are on.

        Raises:
            BadInput: the file has been cut short since it was opened.
        """
        images = self.images_near(rows.device)
        if images.device.type == "cpu" and self._file is not None:
            self._file.must_be_whole()
        return images.index_select(0, rows.flatten().to(images.device)).unflatten(0, rows.shape).to(rows.device)

    def images_near(self, device: torch.device) -> Tensor:
        """All images where they are gathered for a device: there, if half of a GPU's free memory holds them."""
        if device not in self._near:
            images = torch.from_numpy(self.images)
            fits = device.type == "cuda" and 2 * images.nbytes <= torch.cuda.mem_get_info(device)[0]
            self._near[device] = images.to(device) if fits else images
        return self._near[device]

    def __reduce__(self) -> tuple:
        """A worker process that is spawned opens the file again; pickling the images would copy them."""
        return ImageStore.open, (self.folder, self.split, self.chosen)


def _map(path: Path, shape: tuple[int, ...]) -> "tuple[NDArray[np.uint8], _File]":
    """The images in a file, mapped into memory, and the file; it is never written to.

    Raises:
        OSError or ValueError: the file is not there, or holds something else than so many images.
    """
    with open_file(path) as file:
        try:
            major, _ = np.lib.format.read_magic(file)
            reads = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            found = reads[major](file)
        except Exception as error:  # NumPy has Python parse the head, which may raise anything
            raise ValueError(f"{path.name} is no array") from error
        if found != (shape, False, np.uint8):
            raise ValueError(f"{path.name} holds other images")
        if os.fstat(file.fileno()).st_size != file.tell() + math.prod(shape):
            raise ValueError(f"{path.name} is cut off")
        return np.memmap(file, np.uint8, "c", file.tell(), shape), _File(path, os.dup(file.fileno()))


class _File:
    """Keeps a file open, also where its name is gone, to see whether it is still as long as it was.

    A read of a memory-mapped file behind its end kills the process, and Python cannot say why. To ask for the length
    takes a microsecond.

    Args:
        number: the open file's descriptor, which is this object's from now on.
    """

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number
        self.size = os.fstat(number).st_size

    def must_be_whole(self) -> None:
        if os.fstat(self.number).st_size < self.size:
            raise BadInput(f"{self.path} was cut short while it was in use: delete its folder to build it again.")

    def __del__(self) -> None:
        os.close(self.number)


def read_manifest(folder: Path) -> dict:
    """What a store says of itself.

    Raises:
        OSError or ValueError: there is none, or none of this version, or it is damaged.
    """
    try:
        manifest = json.loads(read_bytes(folder / "manifest.json", LIST_BYTES))
    except RecursionError:
        raise ValueError("its manifest is damaged") from None
    if not isinstance(manifest, dict) or manifest.get("version") != FORMAT_VERSION:
        raise ValueError("it was written by another version")
    splits: Any = manifest.get("splits")
    shape: Any = manifest.get("image_shape")
    whole = {"preprocessing", "source"} <= manifest.keys() and isinstance(manifest.get("left_out", []), list)
    whole = whole and isinstance(shape, list) and len(shape) == 3 and all(_is_count(n) and n > 0 for n in shape)
    if not (whole and isinstance(splits, dict) and all(_is_listed(splits.get(split)) for split in SPLITS)):
        raise ValueError("its manifest is damaged")
    return manifest


def _is_listed(split: Any) -> bool:
    """Whether a manifest's entry of a split has a name and a number of images for each class."""
    if not isinstance(split, dict):
        return False
    names, sizes = split.get("class_names"), split.get("class_sizes")
    return (
        isinstance(names, list)
        and isinstance(sizes, list)
        and len(names) == len(sizes)
        and all(isinstance(name, str) for name in names)
        and all(map(_is_count, sizes))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= COUNT


def ensure_store(
    data_dir: Path,
    name: str,
    image_shape: tuple[int, int, int],
    find: Callable[[], Source | None],
    download: Callable[[], None],
    preprocessing: Preprocessing | None = None,
) -> Path:
    """Return the folder of a store that agrees with its source; build it, and before that download, if need be.

    A store whose source is gone is believed. It lies in ``data_dir/.few_shot``, or in the user's cache folder where
    ``data_dir`` cannot be written to.

    Args:
        find: finds the data set on the disk; None if it is not there, or only in part.
        download: fetches what ``find`` misses.
        preprocessing: how the images are made of the pictures on the disk; a store made in another way is not used.

    Raises:
        BadInput: the images cannot be found, fetched, read or stored.
    """
    inside = data_dir / ".few_shot" / name
    key = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:8]
    cache = _cache_folder() / "few_shot" / f"{name}-{key}"
    source = find()
    for folder in (inside, cache):
        if _agrees(folder, image_shape, source, preprocessing):
            return folder
    if source is None:
        download()
        source = find()
        assert source is not None, "what was downloaded is not found"
    source.check()
    folder = inside if _writable(inside.parent) else cache
    if folder is cache:
        print(f"{data_dir} cannot be written to: the decoded images go to {cache}.", file=sys.stderr)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _build(folder, name, image_shape, source, preprocessing)
    except OSError as error:
        raise BadInput(f"{folder} cannot be written ({error}): choose a data_dir that can be.") from error
    return folder


def _cache_folder() -> Path:
    """The user's folder for what can be made again; that of all users for one who has no home."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return Path(tempfile.gettempdir())


def _agrees(
    folder: Path, image_shape: tuple[int, ...], source: Source | None, preprocessing: Preprocessing | None
) -> bool:
    """Whether the folder holds a complete store of this source, or of a source that is gone."""
    try:
        for split in SPLITS:
            ImageStore.open(folder, split)
    except BadInput:
        return False
    manifest = read_manifest(folder)
    if manifest["image_shape"] != list(image_shape):
        return False
    if source is None:
        return manifest["preprocessing"] in (None, preprocessing)
    same = manifest["source"] == {"form": source.form, **source.fingerprint}
    return same and manifest["preprocessing"] == preprocessing


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # The mode too: the superuser could write, but whoever took everybody's right to does not want it.
    return os.access(folder, os.W_OK | os.X_OK) and bool(folder.stat().st_mode & 0o222)


def _build(
    folder: Path, name: str, image_shape: tuple[int, ...], source: Source, preprocessing: Preprocessing | None
) -> None:
    """Write a store beside its place and rename it: a build that is killed leaves nothing that is believed."""
    prefix = f".{name}.building-"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotImplementedError):  # some cluster file systems have no locks: build side by side
            stack.enter_context(FileLock(folder.parent / f".{name}.lock"))
            if _agrees(folder, image_shape, source, preprocessing):
                return  # another process has built it meanwhile
            for dead in folder.parent.glob(f"{prefix}*"):  # nobody else builds: we hold the lock
                shutil.rmtree(dead, ignore_errors=True)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent)))
        new, old = scratch / "new", scratch / "old"
        new.mkdir()
        splits = _write_images(new, name, image_shape, source)
        manifest = {
            "version": FORMAT_VERSION,
            "name": name,
            "image_shape": image_shape,
            "preprocessing": preprocessing,
            "source": {"form": source.form, **source.fingerprint},
            "splits": splits,
            **source.notes(),
        }
        (new / "manifest.json").write_text(json.dumps(manifest, indent=1))
        try:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old)
            new.rename(folder)
        except OSError:
            if not _agrees(folder, image_shape, source, preprocessing):  # else another process was faster
                raise


def _write_images(folder: Path, name: str, image_shape: tuple[int, ...], source: Source) -> dict[str, dict]:
    splits: dict[str, dict] = {}
    split_of: dict[str, str] = {}
    counting, ended = threading.Lock(), threading.Event()
    gaps: dict[str, NDArray[np.int64]] = {}  # where the classes of a split start that has fewer images than was said
    for split in SPLITS:
        classes = source.classes(split)
        for c in classes:
            if (other := split_of.setdefault(same_spelling(c), split)) != split:
                raise BadInput(f"Class {c} of {name} is in the {other} and the {split} split: keep it in one.")
        total = sum(classes.values())
        if total == 0:
            raise BadInput(f"The {split} split of {name} holds no images.")
        needed, free = total * int(np.prod(image_shape)), shutil.disk_usage(folder).free
        if needed > free:  # a memory-mapped file that runs out of disk kills the process
            raise BadInput(f"The {split} images of {name} take {needed} bytes, but {folder.parent} has {free} left.")
        images = np.lib.format.open_memmap(folder / f"{split}.npy", "w+", np.uint8, (total, *image_shape))
        _reserve(folder / f"{split}.npy")
        starts = np.cumsum([0, *classes.values()])

        def write(c: str, start: int, split: str = split, images: NDArray = images) -> int:
            row = start
            for image in source.read(split, c):
                if ended.is_set():  # something has failed, and nobody waits for the rest
                    break
                images[row] = image
                row += 1
                with counting:
                    bar.update()
            return row - start

        # Threads: Pillow decodes outside the interpreter's lock, and no process has to be forked or spawned.
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        try:
            plain = re.sub(r"_\d+_[0-9a-f]{8}$", "", name)  # without the size and the key
            with tqdm(total=total, desc=f"Decoding {plain}, {split}", unit=" images") as bar:
                sizes = list(pool.map(write, classes, starts[:-1].tolist()))
        except BaseException:
            ended.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        images.flush()
        splits[split] = {"class_names": list(classes), "class_sizes": sizes}
        if sum(sizes) < total:
            gaps[split] = starts[:-1]
    source.verify()
    for gappy, starts in gaps.items():
        _close_gaps(folder / f"{gappy}.npy", starts, splits[gappy]["class_sizes"])
    return splits


def _reserve(file: Path) -> None:
    """Have the disk set a file's whole size aside, which nothing else can take then, where the system can do that."""
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise


def _close_gaps(file: Path, starts: NDArray[np.int64], sizes: list[int]) -> None:
    """Write the file anew, of each class only the rows that were filled."""
    if sum(sizes) == 0:
        raise BadInput(f"Of the {file.stem} split, no image could be read.")
    images = np.load(file, mmap_mode="r")
    whole = file.with_suffix(".whole.npy")
    kept = np.lib.format.open_memmap(whole, "w+", np.uint8, (sum(sizes), *images.shape[1:]))
    _reserve(whole)
    row = 0
    for start, size in zip(starts.tolist(), sizes, strict=True):
        kept[row : row + size] = images[start : start + size]
        row += size
    kept.flush()
    whole.replace(file)
