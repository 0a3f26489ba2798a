"""The labels of pictures: as a table, ``labels.csv``, and as a page that shows them, ``labels.html``."""

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from few_shot.errors import BadInput
from training.page import begins_with

#: The label of a picture that none of the classes is likely enough for.
NONE_OF_THESE = "none of these"
#: The columns of the table before those of the classes.
COLUMNS = ("file", "label", "probability")


@dataclass(frozen=True)
class Labels:
    """What each of n pictures is.

    Args:
        files: the pictures, as they were named.
        classes: the N classes.
        probabilities: of each class for each picture, ``[n, N]``.
        threshold: the least probability of the likeliest class; below it, a picture is none of these.
    """

    files: Sequence[Path]
    classes: Sequence[str]
    probabilities: NDArray
    threshold: float = 0.0

    @property
    def best(self) -> NDArray:
        """The probability of each picture's likeliest class, ``[n]``."""
        return self.probabilities.max(1)

    @property
    def labels(self) -> list[str]:
        """Each picture's class, or :data:`NONE_OF_THESE`."""
        likeliest = [self.classes[i] for i in self.probabilities.argmax(1)]
        return [name if p >= self.threshold else NONE_OF_THESE for name, p in zip(likeliest, self.best, strict=True)]

    def groups(self) -> dict[str, list[int]]:
        """The pictures of each label, the surest first; every class is there, and then none of these if it was used."""
        names = [*self.classes, *([NONE_OF_THESE] if NONE_OF_THESE in self.labels else [])]
        groups: dict[str, list[int]] = {name: [] for name in names}
        labels, best = self.labels, self.best
        for i in np.argsort(-best, kind="stable").tolist():
            groups[labels[i]].append(i)
        return groups


def counts(labels: Labels) -> str:
    """How many pictures have each label, as text."""
    rows = [("label", "images", "mean probability")]
    for name, members in labels.groups().items():
        mean = f"{100 * labels.best[members].mean():.0f} %" if members else ""
        rows.append((name, str(len(members)), mean))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{name:<{width}}  {number:>6}  {mean:>16}".rstrip() for name, number, mean in rows)


def is_table(path: Path) -> bool:
    """Whether a file is a table of labels that :func:`as_csv` has made."""
    return path.is_file() and begins_with(path, codecs.BOM_UTF8 + ",".join(COLUMNS).encode())


def as_csv(labels: Labels) -> bytes:
    """A row a picture: its file, its label, that class's probability, and every class's.

    Of a picture that is none of these, the probability is the likeliest class's.

    Raises:
        BadInput: a class is called like one of the first columns, or :data:`NONE_OF_THESE`.
    """
    if twice := set(COLUMNS) & set(labels.classes):
        raise BadInput(f"A class cannot be called {min(twice)}, which is a column of the table: rename its folder.")
    if NONE_OF_THESE in labels.classes:
        raise BadInput(f"A class cannot be called {NONE_OF_THESE}, which is what an unlikely label becomes: rename it.")
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, *labels.classes])
    for file, label, best, row in zip(labels.files, labels.labels, labels.best, labels.probabilities, strict=True):
        writer.writerow([file, label, *(f"{p:.6f}" for p in (best, *row))])
    # With the mark without which Excel takes UTF-8 for something else. Names of files are bytes, not always text.
    return codecs.BOM_UTF8 + text.getvalue().encode(errors="surrogateescape")
