"""What is reported of a task beside its loss: a metric says how it is computed, compared and printed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from few_shot.episodes import IGNORED
from few_shot.errors import BadInput, check_alike


@dataclass(frozen=True)
class Metric:
    """A number per task.

    Args:
        name: as in logs and files.
        title: as at the head of a table.
        description: as on the axis of a plot.
        mode: whether a larger value is better (max) or a smaller one (min).
        of_classes: whether the targets are class labels; otherwise they are numbers.
        when_diverged: the value that an episode counts with once it has diverged; None leaves it out of all means.
        scores: predictions ``[T, n, out]`` and targets ``[T, n]`` or ``[T, n, 1]`` to each task's value, ``[T]``.
        scale: what a value is multiplied by when it is printed.
        digits: decimals printed.
        unit: what is printed after the number.
    """

    name: str
    title: str
    description: str
    mode: Literal["max", "min"]
    of_classes: bool
    when_diverged: float | None
    scores: Callable[[Tensor, Tensor], Tensor]
    scale: float = 1.0
    digits: int = 4
    unit: str = ""


def _accuracy(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions.argmax(-1) == targets).double().sum(-1) / (targets != IGNORED).sum(-1)


def _mean_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    if predictions.dim() == targets.dim():  # a loss of one's own may want more outputs, a variance after the mean
        predictions = predictions[..., : targets.shape[-1]]
    check_alike(predictions.shape[1:], targets.shape[1:])
    return (predictions - targets).square().flatten(1).mean(-1)


METRICS = {
    "accuracy": Metric(
        name="accuracy",
        title="accuracy",
        description="accuracy",
        mode="max",
        of_classes=True,
        when_diverged=0.0,  # logits that are not numbers still pick a class, and one in N would be right
        scores=_accuracy,
        scale=100.0,
        digits=2,
        unit=" %",
    ),
    "mse": Metric(
        name="mse",
        title="MSE",
        description="mean squared error",
        mode="min",
        of_classes=False,
        when_diverged=None,
        scores=_mean_squared_error,
    ),
}


def metric_by_name(name: str) -> Metric:
    """Find a metric, or raise BadInput with those there are."""
    if name not in METRICS:
        raise BadInput(f"metric={name} is unknown: choose one of {', '.join(METRICS)}.")
    return METRICS[name]
