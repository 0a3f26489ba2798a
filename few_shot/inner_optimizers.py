"""The rules that turn a gradient into a step of the inner loop: pure functions, differentiable throughout."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Weights = dict[str, Tensor]
Rates = Mapping[str, float | Tensor]

#: (weights, gradients, rates, state) -> (new weights, new state); the state is None before the first step.
InnerOptimizer = Callable[[Weights, Weights, Rates, Any], tuple[Weights, Any]]


def sgd(weights: Weights, gradients: Weights, rates: Rates, state: None) -> tuple[Weights, None]:
    """w - α g (Finn et al. 2017, equation 1)."""
    return {name: w - rates[name] * gradients[name] for name, w in weights.items()}, None


INNER_OPTIMIZERS: dict[str, InnerOptimizer] = {"sgd": sgd}
