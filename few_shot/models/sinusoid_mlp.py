"""The regressor of MAML's sinusoid experiment (Finn et al. 2017, section 5.1)."""

import itertools
import math

from torch import nn

from few_shot.arguments import RemembersArguments
from few_shot.errors import at_least


class SinusoidMLP(RemembersArguments, nn.Sequential):
    """1-40-40-1 with ReLU; ``[n, *input_shape]`` to ``[n, output_size]``.

    Args:
        input_shape: shape of one sample.
        output_size: numbers put out for one sample.
        width: units in a hidden layer.
        hidden_layers: how many hidden layers.
    """

    def __init__(
        self, input_shape: tuple[int, ...] = (1,), output_size: int = 1, width: int = 40, hidden_layers: int = 2
    ) -> None:
        at_least(1, width, "width")
        at_least(0, hidden_layers, "hidden_layers")
        sizes = [math.prod(input_shape)] + [width] * hidden_layers
        layers: list[nn.Module] = [nn.Flatten()]
        for size_in, size_out in itertools.pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], output_size))
