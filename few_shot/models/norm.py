"""What the convolutional models share: the choice of normalisation, and a check."""

import math
from typing import Literal

from torch import nn

from few_shot.errors import BadInput

Norm = Literal["batch", "group", "none"]


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """A normalisation layer for ``[n, channels, H, W]``.

    ``batch`` always uses the statistics of the batch in front of it, as MAML does: it keeps no running ones.
    ``group`` (Wu & He 2018) has 8 groups, or as many as divide the channels.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    return nn.GroupNorm(math.gcd(8, channels), channels) if kind == "group" else nn.Identity()


def check_dropout(probability: float) -> None:
    """Raise BadInput unless the probability is one, and below 1."""
    if not 0 <= probability < 1:
        raise BadInput(f"dropout={probability} is no probability from 0 to below 1.")
