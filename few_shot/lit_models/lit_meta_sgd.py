"""Meta-SGD (Li, Zhou, Chen & Li 2017, https://arxiv.org/abs/1707.09835, section 3.1)."""

from typing import ClassVar

import torch
from torch import nn

from few_shot.errors import BadInput, above_zero
from few_shot.inner_optimizers import Rates
from few_shot.lit_models.lit_maml import LitMAML


class LitMetaSGD(LitMAML):
    """MAML with an inner learning rate for every element of every parameter, learned by the outer loop (algorithm 1).

    The rates start at random between two bounds, and may leave them, even become negative, in training. They adapt at
    every inner step alike.

    Args:
        inner_lr_min: least initial inner learning rate.
        inner_lr_max: greatest initial inner learning rate.
        inner_loop_steps: inner steps in training, 1 or more; the paper takes 1.

    Raises:
        BadInput: the bounds are not 0 < min <= max.
    """

    unused: ClassVar = {"inner_lr": "its inner rates start between inner_lr_min and inner_lr_max"}

    def __init__(
        self,
        model: nn.Module,
        inner_lr_min: float = 0.005,
        inner_lr_max: float = 0.1,
        inner_loop_steps: int = 1,
        **maml,
    ) -> None:
        above_zero("inner_lr_min", inner_lr_min)
        above_zero("inner_lr_max", inner_lr_max)
        if inner_lr_min > inner_lr_max:
            raise BadInput(f"inner_lr_min={inner_lr_min} must be at most inner_lr_max={inner_lr_max}.")
        super().__init__(model, inner_lr=inner_lr_max, inner_loop_steps=inner_loop_steps, **maml)
        self.rates = nn.ParameterList(
            torch.empty_like(p).uniform_(inner_lr_min, inner_lr_max) for p in self.adapted_weights().values()
        )

    def inner_rates(self, step: int) -> Rates:
        """The learned rates, each of its parameter's shape."""
        return self.named_rates(self.rates)
