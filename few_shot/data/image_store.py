"""Decoded images, sorted by class, in one memory-mapped uint8 file per split: built once, gathered by row."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Source:
    """The images as they lie on the user's disk.

    Args:
        form: what they lie in, such as "class folders".
        fingerprint: numbers that change when the files do, cheap to get.
        classes: maps a split to its classes, in the order of the store, and their numbers of images.
        read: maps a split and a class to the class's images, uint8 ``[C, H, W]`` each.
    """

    form: str
    fingerprint: dict[str, int]
    classes: Callable[[str], dict[str, int]]
    read: Callable[[str, str], Iterable[NDArray[np.uint8]]]


@dataclass(frozen=True)
class ImageStore:
    """One split of a built store; class c's images are rows ``class_starts[c]`` … ``+ class_sizes[c]``."""

    folder: Path
    split: str
    images: NDArray[np.uint8]  # [n, C, H, W], memory-mapped
    class_names: list[str]
    class_sizes: NDArray[np.int64]
    _near: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def class_starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.class_sizes) - self.class_sizes

    @classmethod
    def open(cls, folder: Path, split: str, classes: int | None = None) -> "ImageStore":
        """Open a split, or only its first so many classes.

        Raises:
            BadInput: there is no complete store of this version in the folder.
        """
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            listed = manifest["splits"][split]
            images = np.load(folder / f"{split}.npy", mmap_mode="c")  # the file itself is never written to
            right = images.shape == (sum(listed["class_sizes"]), *manifest["image_shape"])
            if manifest["version"] != FORMAT_VERSION or not right:
                raise ValueError("it was written by another version, or is damaged")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{folder} holds no usable {split} images ({error}): delete it to build it again."
            ) from error
        sizes = np.asarray(listed["class_sizes"][:classes], dtype=np.int64)
        return cls(folder, split, images[: sizes.sum()], listed["class_names"][:classes], sizes)

    def first(self, classes: int) -> "ImageStore":
        """The same split, of its first so many classes alone.

        Raises:
            BadInput: it has fewer.
        """
        if not 0 < classes <= len(self.class_names):
            there = len(self.class_names)
            raise BadInput(f"--train_classes={classes} must be at least 1 and at most the {there} there are.")
        return ImageStore.open(self.folder, self.split, classes)

    def gather(self, rows: Tensor) -> Tensor:
        """The images of ``rows``, uint8 ``[*rows.shape, C, H, W]``, on the device that the rows are on."""
        images = self.images_near(rows.device)
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
        return ImageStore.open, (self.folder, self.split, len(self.class_names))


def ensure_store(
    data_dir: Path,
    name: str,
    image_shape: tuple[int, int, int],
    find: Callable[[], Source | None],
    download: Callable[[], None],
) -> Path:
    """Return the folder of a store that agrees with its source; build it, and before that download, if need be.

    A store whose source is gone is believed. It lies in ``data_dir/.few_shot``, or in the user's cache folder where
    ``data_dir`` cannot be written to.

    Args:
        find: finds the data set on the disk; None if it is not there, or only in part.
        download: fetches what ``find`` misses.

    Raises:
        BadInput: the images cannot be found, fetched, read or stored.
    """
    inside = data_dir / ".few_shot" / name
    key = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "few_shot" / f"{name}-{key}"
    source = find()
    for folder in (inside, cache):
        if _agrees(folder, image_shape, source):
            return folder
    if source is None:
        download()
        source = find()
        assert source is not None, "what was downloaded is not found"
    folder = inside if _writable(inside.parent) else cache
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _build(folder, name, image_shape, source)
    except OSError as error:
        raise BadInput(f"{folder} cannot be written ({error}): choose a --data_dir that can be.") from error
    return folder


def _agrees(folder: Path, image_shape: tuple[int, ...], source: Source | None) -> bool:
    """Whether the folder holds a complete store of this source, or of a source that is gone."""
    try:
        for split in SPLITS:
            ImageStore.open(folder, split)
    except BadInput:
        return False
    manifest = json.loads((folder / "manifest.json").read_text())
    same = source is None or manifest["source"] == {"form": source.form, **source.fingerprint}
    return same and manifest["image_shape"] == list(image_shape)


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # The mode too: the superuser could write, but whoever took everybody's right to does not want it.
    return os.access(folder, os.W_OK | os.X_OK) and bool(folder.stat().st_mode & 0o222)


def _build(folder: Path, name: str, image_shape: tuple[int, ...], source: Source) -> None:
    """Write a store beside its place and rename it: a build that is killed leaves nothing that is believed."""
    prefix = f".{name}.building-"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotImplementedError):  # some cluster file systems have no locks: build side by side
            stack.enter_context(FileLock(folder.parent / f".{name}.lock"))
            if _agrees(folder, image_shape, source):
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
            "source": {"form": source.form, **source.fingerprint},
            "splits": splits,
        }
        (new / "manifest.json").write_text(json.dumps(manifest, indent=1))
        try:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old)
            new.rename(folder)
        except OSError:
            if not _agrees(folder, image_shape, source):  # else another process was faster
                raise


def _write_images(folder: Path, name: str, image_shape: tuple[int, ...], source: Source) -> dict[str, dict]:
    splits: dict[str, dict] = {}
    split_of: dict[str, str] = {}
    for split in SPLITS:
        classes = source.classes(split)
        for c in classes:
            if split_of.setdefault(c, split) != split:
                raise BadInput(f"Class {c} of {name} is in the {split_of[c]} and the {split} split: keep it in one.")
        total = sum(classes.values())
        if total == 0:
            raise BadInput(f"The {split} split of {name} holds no images.")
        needed, free = total * int(np.prod(image_shape)), shutil.disk_usage(folder).free
        if needed > free:  # a memory-mapped file that runs out of disk kills the process
            raise BadInput(f"The {split} images of {name} take {needed} bytes, but {folder.parent} has {free} left.")
        images = np.lib.format.open_memmap(folder / f"{split}.npy", "w+", np.uint8, (total, *image_shape))
        starts = np.cumsum([0, *classes.values()])

        def write(c: str, start: int, split: str = split, images: NDArray = images) -> int:
            row = start
            for image in source.read(split, c):
                images[row] = image
                row += 1
            return row - start

        # Threads: Pillow decodes outside the interpreter's lock, and no process has to be forked or spawned.
        pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        try:
            with tqdm(total=total, desc=f"Decoding {name} {split}", unit=" images") as bar:
                for written in pool.map(write, classes, starts[:-1].tolist()):
                    bar.update(written)
        finally:
            pool.shutdown(cancel_futures=True)
        images.flush()
        splits[split] = {"class_names": list(classes), "class_sizes": list(classes.values())}
    return splits
