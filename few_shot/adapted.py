"""A learner after it has adapted to one task: it predicts, and no longer learns."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from few_shot.errors import BadInput
from few_shot.samples import Inputs

#: Samples that are predicted at once, where none sees another.
AT_ONCE = 256


class Adapted:
    """Predicts for one task. The learner that adapted stays as it was.

    Attributes:
        model: the adapted network, a plain module for inputs ``[n, ...]``.
        classes: the labels, in the order of the model's outputs; None for regression.
    """

    def __init__(
        self, model: nn.Module, inputs: Inputs, classes: NDArray | None, like: Tensor, flat: bool, transductive: bool
    ) -> None:
        self.model, self.classes = model, classes
        self._inputs, self._like, self._flat, self._transductive = inputs, like, flat, transductive

    def predict(self, x: Any) -> NDArray:
        """The label of each sample, as labels were given; or, for regression, its targets.

        Args:
            x: samples, as :meth:`Learner.adapt` takes them.

        Returns:
            ``[n]`` labels; targets ``[n, d]``, or ``[n]`` if the support set's were.
        """
        outputs = self.outputs(x)
        if self.classes is not None:
            return self.classes[outputs.argmax(1).cpu().numpy()]
        return _array(outputs[:, 0] if self._flat else outputs)

    def predict_proba(self, x: Any) -> NDArray:
        """The probability of each class for each sample, ``[n, N]``, in the order of ``classes``.

        Raises:
            BadInput: the task is regression.
        """
        if self.classes is None:
            raise BadInput("There are no probabilities: the task is regression.")
        return _array(self.outputs(x).softmax(1))

    @torch.no_grad()
    def outputs(self, x: Any) -> Tensor:
        """The model's outputs for samples, ``[n, outputs]``: logits of classes, or numbers.

        Raises:
            BadInput: the samples cannot be used, or the outputs are not finite.
        """
        samples = self._inputs.tensor(x, self._like)
        parts = [samples] if self._transductive or len(samples) == 0 else samples.split(AT_ONCE)
        with enough_for_batch_norm():
            outputs = torch.cat([self.model(part) for part in parts])
        if not outputs.isfinite().all():
            raise BadInput(
                "The adapted model's outputs are not finite: take fewer inner steps (steps=1), or look for samples or "
                "targets that are not finite."
            )
        return outputs

    def __repr__(self) -> str:
        what = "regression" if self.classes is None else f"classes {np.array2string(self.classes, threshold=6)}"
        return f"Adapted({type(self.model).__name__}, {what})"


@contextmanager
def enough_for_batch_norm() -> Iterator[None]:
    """BadInput instead of PyTorch's own error where batch norm has one value of a channel, and nothing to norm."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise BadInput(
            f"There are too few samples x for the model's batch norm ({error}): give more, or larger pictures."
        ) from error


def _array(outputs: Tensor) -> NDArray:
    """A tensor as an array; numpy has no bfloat16."""
    return (outputs.float() if outputs.dtype == torch.bfloat16 else outputs).cpu().numpy()
