"""How predictions are judged: a task's loss, and the metric that is reported beside it."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from few_shot.adaptation import TaskLoss, task_loss
from few_shot.errors import BadInput
from few_shot.files import shortened
from few_shot.metrics import METRICS, Metric, metric_by_name
from few_shot.own_code import find

_CROSS_ENTROPY, _SQUARED_ERROR = task_loss(F.cross_entropy), task_loss(F.mse_loss)


class Objective:
    """A loss and a metric. What is left open follows the targets.

    Class labels have cross entropy and accuracy; numbers have the mean squared error as both. A loss that fits numbers
    alone has the mean squared error as its metric, so whole numbers are no labels then.

    Args:
        loss: a function of torch.nn.functional by name, or any function by its dotted name; None leaves it open.
        metric: a metric by name; None leaves it open.

    Raises:
        BadInput: the loss or the metric is unknown, or the loss is none.
    """

    def __init__(self, loss: str | None, metric: str | None) -> None:
        self.loss_name, self.metric_name = loss, metric
        of_classes = None if metric is None else metric_by_name(metric).of_classes
        self.losses: TaskLoss = _loss_of_the_targets
        if loss is not None:
            function, fits = _loss_by_name(loss, of_classes)
            self.losses = task_loss(function)
            if fits == {"numbers"}:
                self.metric_name = "mse"

    def metric(self, targets: Tensor) -> Metric:
        """The metric of predictions for these targets."""
        if self.metric_name is not None:
            return METRICS[self.metric_name]
        return METRICS["mse" if targets.is_floating_point() else "accuracy"]


def loss_name(loss: Any) -> str | None:
    """The name by which a loss is found again: a function's own, if it can be imported by it.

    Raises:
        BadInput: it is neither a name nor such a function.
    """
    if loss is None or isinstance(loss, str):
        return loss
    if isinstance(loss, type):
        raise BadInput(f"loss={loss.__name__} is a class: give a function, such as torch.nn.functional.mse_loss.")
    module, name = getattr(loss, "__module__", None), getattr(loss, "__qualname__", "")
    if not callable(loss) or getattr(sys.modules.get(str(module)), name, None) is not loss:
        raise BadInput(
            f"loss={shortened(loss)} cannot be named in a checkpoint: give a function that can be imported, or its "
            "name, such as mypackage.losses.my_loss."
        )
    return f"{module}.{name}"


def _loss_of_the_targets(predictions: Tensor, targets: Tensor) -> Tensor:
    return (_SQUARED_ERROR if targets.is_floating_point() else _CROSS_ENTROPY)(predictions, targets)


def _loss_by_name(name: str, of_classes: bool | None) -> tuple[Callable[[Tensor, Tensor], Tensor], set[str]]:
    """Find a loss, and try it on a few predictions: for class labels, for numbers, or for either if that is open.

    Returns:
        the loss, and what it fits: "class labels", "numbers", both, or neither.
    """
    try:
        function = find(name, F)
    except ImportError:
        function = None
    if not callable(function):
        raise BadInput(
            f"loss={shortened(name)} is neither a function of torch.nn.functional nor one that can be imported, "
            "such as mypackage.losses.my_loss."
        )
    kinds = {False: "numbers", True: "class labels"}
    fits = {kind: _is_mean_loss(function, c) for c, kind in kinds.items() if of_classes in (None, c)}
    if not any(fits.values()) and not ("." in name and None in fits.values()):  # one of your own may want other shapes
        raise BadInput(
            f"loss={name} does not fit targets that are {' or '.join(fits)}: it must return one number, the mean over "
            "the samples, with a gradient."
        )
    return function, {kind for kind, fit in fits.items() if fit}


def _is_mean_loss(function: Callable, of_classes: bool) -> bool | None:
    """Whether it is one for class labels, or for numbers; None if it fails for a few."""
    predictions = torch.linspace(-0.9, 0.8, 10).reshape(*((2, 5) if of_classes else (10, 1))).requires_grad_()
    targets = torch.tensor([1, 4]) if of_classes else torch.linspace(-2, 2, 10)[:, None]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these are not the user's targets
            loss = function(predictions, targets)
        return loss.dim() == 0 and bool(torch.autograd.grad(loss, predictions)[0].any())
    except Exception:
        return None
