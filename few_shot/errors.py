"""What is raised for a user's mistake, and for a training that cannot go on."""

import itertools
import operator
from collections.abc import Iterator, Sequence

from few_shot.limits import COUNT


class BadInput(ValueError):
    """What the user gave cannot be used.

    The message is one sentence. It names the argument (``inner_lr=-1``) or the file, and says what to do.
    """


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is no longer finite.

    Args:
        what: which of the two it is.
        update: number of the outer update, counted from 1. The weights are still those before it.
        tasks: numbers of the training tasks, sorted: those whose loss is not finite, or all of the update.
    """

    def __init__(self, what: str, update: int, tasks: Sequence[int]) -> None:
        super().__init__(what, update, tasks)
        self.what, self.update, self.tasks = what, update, list(tasks)

    def __str__(self) -> str:
        numbers = ", ".join(f"{first} to {last}" if last > first else f"{first}" for first, last in _runs(self.tasks))
        return f"The {self.what} of update {self.update} is not finite (training tasks {numbers})."


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last number of each run of consecutive numbers; the numbers are sorted."""
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]


def at_least(least: int, value: int, name: str) -> int:
    """Return ``value``, or raise BadInput with the argument's name; also if it is larger than any number must be."""
    try:
        value = operator.index(value)
    except TypeError:
        raise BadInput(f"{name}={value!r} must be a whole number.") from None
    if value < least:
        raise BadInput(f"{name}={value} is too small: it must be at least {least}.")
    if value > COUNT:
        raise BadInput(f"{name}={value} is too large: {COUNT} is the most.")
    return value


def check_alike(predictions: Sequence[int], targets: Sequence[int]) -> None:
    """Raise BadInput unless one task's predictions and numbers to predict have the same shape: they would broadcast."""
    if list(predictions) != list(targets):
        raise BadInput(
            f"For each task the model's predictions have the shape {list(predictions)}, and the targets "
            f"{list(targets)}: they must be alike, [n, 1] for one number a sample."
        )


def true_or_false(value: bool, name: str) -> bool:
    """Return ``value``, or raise BadInput with the argument's name: text such as "no" would count as True."""
    if value not in (True, False):
        raise BadInput(f"{name}={value!r} must be True or False.")
    return bool(value)


def above_zero(name: str, value: float, or_zero: bool = False) -> None:
    """Raise BadInput with the argument's name unless the value is a number above zero, or zero if that is allowed."""
    try:
        fits = bool(value >= 0 if or_zero else value > 0)
    except (TypeError, ValueError, RuntimeError):  # as tensors of several numbers raise them
        raise BadInput(f"{name}={value!r} must be a number.") from None
    if value == float("inf"):
        raise BadInput(f"{name}={value} must be finite.")
    if not fits:
        raise BadInput(f"{name}={value} must {'not be negative' if or_zero else 'be above 0'}.")
