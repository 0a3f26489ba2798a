"""What the convolutional models share: normalisation, activation, initial weights, and a check."""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from few_shot.errors import BadInput
from few_shot.private_parts import BatchNorm, NormBase

Norm = Literal["batch", "batch_shift", "group", "none"]
Activation = Literal["relu", "leaky_relu"]
InitialWeights = Literal["torch", "xavier", "finn2017"]


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """A normalisation layer for ``[n, channels, H, W]``.

    ``batch`` always uses the statistics of the batch in front of it, as MAML does: it keeps no running ones.
    ``batch_shift`` is the batch norm of MAML's code. Its ε is 1e-3, its shift is learned, its scale stays 1.
    ``group`` (Wu & He 2018) has 8 groups, or as many as divide the channels.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    if kind == "batch_shift":
        norm = nn.BatchNorm2d(channels, eps=1e-3, track_running_stats=False)
        norm.weight.requires_grad_(False)
        return norm
    return nn.GroupNorm(math.gcd(8, channels), channels) if kind == "group" else nn.Identity()


class FixedNorm(NormBase):
    """Batch norm by a given mean and variance, in training and evaluation alike, for inputs ``[n, C, ...]``.

    It is none of PyTorch's batch norms, so nothing makes it look at the batch.

    Args:
        mean: of each channel, ``[C]``.
        var: of each channel, ``[C]``.
        weight: scale of each channel, ``[C]``, or None.
        bias: shift of each channel, ``[C]``, or None.
        eps: what is added to the variance.
    """

    def __init__(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        super().__init__(len(mean), eps, affine=False, track_running_stats=False)
        self.running_mean, self.running_var = mean.detach().clone(), var.detach().clone()
        self.weight, self.bias = (  # type: ignore[assignment]
            None if p is None else nn.Parameter(p.detach().clone(), p.requires_grad) for p in (weight, bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def freeze_norms(model: nn.Module) -> None:
    """Replace a model's batch norms, in place, by ones that keep the running statistics they have.

    Scale and shift are trained and adapted as before.
    """
    for name, norm in list(model.named_modules()):
        if isinstance(norm, BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            fixed = FixedNorm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
            replace_norm(model, name, fixed)


def replace_norm(model: nn.Module, name: str, by: nn.Module) -> None:
    """Put another layer in the place of a model's normalisation, and keep what that holds.

    The batch norms of timm hold the dropout and the activation that follow them.
    """
    after = [child for child in model.get_submodule(name).children() if not isinstance(child, nn.Identity)]
    model.set_submodule(name, nn.Sequential(by, *after) if after else by)


def make_activation(kind: Activation) -> nn.Module:
    """ReLU, or leaky ReLU with slope 0.01 below zero."""
    return nn.ReLU() if kind == "relu" else nn.LeakyReLU()


def initialize(body: nn.Module, head: nn.Linear, kind: InitialWeights) -> None:
    """Draw a network's weights anew, in place; ``torch`` leaves PyTorch's own.

    ``xavier`` (Glorot & Bengio 2010, equation 16): uniform, with biases 0, as in MAML++'s code.
    ``finn2017``: the same, but the head is N(0, 1), as in MAML's code for Omniglot.
    """
    if kind == "torch":
        return
    for module in [*body.modules(), head]:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if kind == "finn2017":
        nn.init.normal_(head.weight)


def check_dropout(probability: float) -> None:
    """Raise BadInput unless the probability is one, and below 1."""
    if not 0 <= probability < 1:
        raise BadInput(f"dropout={probability} is no probability from 0 to below 1.")
