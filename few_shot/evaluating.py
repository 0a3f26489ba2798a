"""A learner is evaluated: nothing of it changes, and no graph is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def evaluating(lit_model: Any) -> Iterator[None]:
    """In evaluation mode, without a graph, on tasks that are not a Trainer's: they may have any number of shots.

    An inner loop can still take its gradients. Afterwards each layer is in its mode again.
    """
    modes = {module: module.training for module in lit_model.modules()}
    shots, lit_model.shots = lit_model.shots, None
    lit_model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        lit_model.shots = shots
        for module, training in modes.items():
            module.training = training


def usable(x: Tensor) -> Tensor:
    """The tensor, or a copy if it was made in inference mode, whose tensors autograd refuses."""
    return x.clone() if x.is_inference() else x
