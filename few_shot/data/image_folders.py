"""Pictures of one's own: a folder for each class, split into classes to train, to validate and to test on."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from few_shot.data.base import ImageEpisodes
from few_shot.data.class_folders import FileReader, Place, repetitions, some
from few_shot.data.image_store import ImageStore, Source, ensure_store, read_manifest
from few_shot.data.picture_folders import Found, find_pictures
from few_shot.data.pictures import BadPicture, Preprocessing, preprocessing
from few_shot.episodes import SPLITS, Split
from few_shot.errors import BadInput, at_least, true_or_false
from few_shot.files import printable

_USE = {"train": "to train on", "val": "to validate on", "test": "to test on"}


class ImageFolders(ImageEpisodes):
    """Your own pictures: ``data_dir`` holds a folder for each class, ``photos/<class>/*``.

    The classes are split into those to train on, to validate on and to test on: by a draw, or, if ``data_dir`` holds
    ``train``, ``val`` (or ``validation``) and ``test`` (in any case) with the class folders in them, as they lie there.
    So the test is on classes that were never trained on.

    A picture is a file of any size and format that Pillow reads. It is turned by its EXIF orientation; what is
    transparent becomes white; grey becomes colour; 16 bits become 8; the largest square in its middle is cut out and
    resized. Every file in a class folder must be a picture, but for hidden files and those that systems leave
    (``.DS_Store``, ``Thumbs.db``, ``desktop.ini``). The same file may not lie in two classes; of copies in
    one class, one is taken, and the others are named.

    It also takes what all data modules of images take (``ImageEpisodes`` and ``EpisodeDataModule`` in
    ``few_shot.data.base``): ``episode_classes``, ``support_samples``, ``query_samples``, ``test_query_samples``,
    ``batch_size``, ``augment`` and others.

    Args:
        data_dir: folder that holds the class folders, or train, val and test with them.
        image_size: height and width of the pictures that the model gets, in pixels.
        class_split: shares of the classes to train, to validate and to test on, such as 0.64,0.16,0.20. Each of the
            three gets at least 5 classes, or a third of them if there are fewer than 15. Without effect on pictures in
            ``train``, ``val`` and ``test``.
        split_seed: drives the draw of the classes. It is apart from the seed, so that every seed is tested on the same
            classes. The draw depends on it and on the names of the class folders alone.
        skip_bad_images: whether to leave out files that are no pictures, instead of refusing them; they are named.
        skip_small_classes: whether to leave out classes with fewer pictures than a task takes from a class, instead of
            refusing them; they are named.
    """

    def __init__(
        self,
        data_dir: str = "data",
        image_size: int = 84,
        class_split: tuple[float, float, float] | str = (0.64, 0.16, 0.20),
        split_seed: int = 0,
        skip_bad_images: bool = False,
        skip_small_classes: bool = False,
        **base,
    ) -> None:
        super().__init__(data_dir=data_dir, **base)
        self.image_size = at_least(1, image_size, "image_size")
        self.class_split = _shares(class_split)
        self.split_seed = at_least(0, split_seed, "split_seed")
        self.skip_bad_images = true_or_false(skip_bad_images, "skip_bad_images")
        self.skip_small_classes = true_or_false(skip_small_classes, "skip_small_classes")
        self.input_shape = self.image_shape = (3, image_size, image_size)
        self.drawn = False  # whether the classes were split by a draw
        self.left_out: dict[str, list[str]] = {"files": [], "classes": []}

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing(self.input_shape, crop="center")

    def record(self) -> dict:
        """What a run's record is to say: each open split's classes, how they were split, and what was left out."""
        how = f"drawn with split_seed={self.split_seed}" if self.drawn else "as the folders are"
        return {**super().record(), "class_split": how, "left_out": self.left_out}

    def build_store(self) -> Path:
        """Look through the folders, decode the pictures once, and return the store's folder.

        Raises:
            BadInput: the folders or the pictures cannot be used; says all that is wrong with them.
        """
        found = find_pictures(self.data_dir, self.class_split, self.split_seed)
        self.drawn = found.drawn
        reader = _Reader(found, self.preprocessing, self.skip_bad_images)

        def check() -> None:
            # Once decoded, the pictures are counted again, without those that are none.
            try:
                self._check({split: reader.classes(split) for split in SPLITS})
            except BadInput as error:
                strays = f" {_files(found.strays)} not counted: {some(found.strays)}." if found.strays else ""
                raise BadInput(f"{error}{strays}") from None

        settings = (*(self.class_split if found.drawn else ()), self.split_seed * found.drawn, self.skip_bad_images)
        key = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
        source = Source("pictures", found.fingerprint, reader.classes, reader.read, check, reader.verify, reader.notes)
        return ensure_store(
            self.data_dir,
            f"pictures_{self.image_size}_{key}",
            (3, self.image_size, self.image_size),
            find=lambda: source,
            download=lambda: None,
            preprocessing=self.preprocessing,
        )

    def keep(self, stores: dict[Split, ImageStore]) -> None:
        """Check all of these splits, and leave out what is to be left out."""
        self.left_out["files"] = list(map(str, read_manifest(next(iter(stores.values())).folder).get("left_out", ())))
        if self.left_out["files"]:
            _say(f"{_files(self.left_out['files'])} left out: {some(self.left_out['files'])}.")
        sizes = {s: dict(zip(x.class_names, x.class_sizes.tolist(), strict=True)) for s, x in stores.items()}
        self._check(sizes)
        kept = {}
        for split, store in stores.items():
            small = self._small(split, sizes[split])
            kept[split] = store.select([i for i, name in enumerate(store.class_names) if name not in small])
            if small:
                self.left_out["classes"] += small
                _say(f"Classes {_USE[split]} that are left out, with too few pictures: {some(_with(small))}.")
        super().keep(kept)

    def _small(self, split: Split, sizes: dict[str, int]) -> dict[str, int]:
        """The classes, with their sizes, that a task cannot take."""
        return {name: n for name, n in sizes.items() if n < self.support_samples + self.queries(split)}

    def _check(self, sizes: dict[Split, dict[str, int]]) -> None:
        """Say all at once which classes and splits are too small, and what can be done.

        Args:
            sizes: maps a split to its classes' numbers of pictures.

        Raises:
            BadInput: there are some.
        """
        small = {split: self._small(split, sizes[split]) for split in sizes}
        left = {split: len(sizes[split]) - len(small[split]) for split in sizes}
        there = left if self.skip_small_classes else {split: len(sizes[split]) for split in sizes}
        narrow = {split: n for split, n in there.items() if n < self.ways(split)}
        told = {} if self.skip_small_classes else {split: classes for split, classes in small.items() if classes}
        if not narrow and not told:
            return
        ways = " or ".join(str(n) for n in sorted({self.ways(split) for split in sizes}))
        queries = f"{self.queries('test')}"
        if "train" in sizes and self.queries("train") != self.queries("test"):
            queries = f"{self.queries('train')} (in training) or {queries} (in validation and test)"
        text = [
            f"{self.data_dir} has too few pictures or classes. A task is to tell {ways} classes apart (the ways): the "
            f"model learns from {self.support_samples} of each class's pictures (the shots) and is judged on {queries} "
            "others (the queries)."
        ]
        advice = []
        for split, classes in told.items():
            need = self.support_samples + self.queries(split)
            text.append(f"Classes {_USE[split]} with fewer than {need} pictures: {some(_with(classes))}.")
        for flag, of_training in (("query_samples", True), ("test_query_samples", False)):
            in_question = [classes for split, classes in told.items() if (split == "train") == of_training]
            fewest = min((n for classes in in_question for n in classes.values()), default=0)
            if fewest > self.support_samples:
                advice.append(f"{flag}={fewest - self.support_samples}")
        if told and min(left.values()) >= 2:
            fewer = f" with episode_classes={min(left.values())}" * any(left[s] < self.ways(s) for s in left)
            advice.append(f"skip_small_classes=true{fewer}, which leaves those classes out")
        for split, n in narrow.items():
            text.append(f"Classes {_USE[split]}: {n} of the {self.ways(split)} needed.")
        if narrow and min(there.values()) >= 2:
            advice.append(f"episode_classes={min(there.values())}")
        if narrow and self.drawn and sum(there.values()) >= sum(self.ways(split) for split in there):
            advice.append("another class_split")
        if self.drawn and any(small.values()):
            advice.append("a data_dir without the folders of the small classes, which then take no part in the draw")
        raise BadInput(" ".join([*text, f"Add more, or use: {'; '.join(advice)}." if advice else "Add more."]))


class _Reader(FileReader):
    """Reads the pictures, each of a class once, and remembers which are none."""

    def __init__(self, found: Found, how: Preprocessing, skip_bad_images: bool) -> None:
        super().__init__(found.files, how, may_repeat=lambda first, second: first[:2] == second[:2])
        self.skip_bad_images = skip_bad_images
        self.bad = list(found.strays)
        self.copies: list[str] = []

    def read(self, split: str, class_name: str) -> Iterator[NDArray[np.uint8]]:
        for path in self.files[split][class_name]:
            try:
                picture = self.read_one(Place(split, class_name, path))
            except BadPicture as error:
                self.bad.append(f"{path} ({error.reason})")
                continue
            if path in self.first_of:  # a task would learn from it and be judged on it
                self.copies.append(f"{path} (the same picture as {self.first_of[path].path.name})")
            else:
                yield picture

    def verify(self) -> None:
        """Refuse bad files, unless they are skipped, and pictures that lie in two classes.

        Raises:
            BadInput: there are some; the message names them.
        """
        self.bad.sort()
        text = []
        if self.bad and not self.skip_bad_images:
            text.append(
                f"{_files(self.bad)} no pictures of a class: {some(self.bad)}. Replace or move them, or leave them out "
                "with skip_bad_images=true."
            )
        if self.repeated:
            text.append(repetitions(self.repeated))
        if text:
            raise BadInput(" ".join(text))

    def notes(self) -> dict:
        return {"left_out": self.bad + sorted(self.copies)}


@rank_zero_only
def _say(text: str) -> None:
    print(printable(text).replace("\n", "\\n"), file=sys.stderr)  # a name may hold the end of a line


def _files(names: Sequence[str]) -> str:
    return f"{len(names)} file or folder is" if len(names) == 1 else f"{len(names)} files or folders are"


def _with(sizes: dict[str, int]) -> list[str]:
    return [f"{name} ({n})" for name, n in sizes.items()]


def _shares(class_split: Sequence[float] | str) -> tuple[float, float, float]:
    parts = class_split.strip("()[] ").split(",") if isinstance(class_split, str) else class_split
    try:
        train, val, test = (float(part) for part in parts)
    except (TypeError, ValueError):
        train = val = test = 0.0
    if not all(0 < share < float("inf") for share in (train, val, test)):
        raise BadInput(
            f"class_split={class_split} must be three numbers above 0: the shares of the classes to train, to validate "
            "and to test on, such as 0.64,0.16,0.20."
        )
    return train, val, test
