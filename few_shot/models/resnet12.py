"""ResNet-12 as few-shot learning uses it (Oreshkin et al. 2018, TADAM; Lee et al. 2019, MetaOptNet)."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from few_shot.arguments import RemembersArguments
from few_shot.errors import BadInput, at_least
from few_shot.models.norm import Norm, check_dropout, make_norm


class _Block(nn.Module):
    """Three 3x3 convolutions beside a 1x1 shortcut, then leaky ReLU and 2x2 max-pooling."""

    def __init__(self, channels_in: int, channels: int, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [
                nn.Conv2d(channels_in if i == 0 else channels, channels, 3, padding=1, bias=False),
                make_norm(norm, channels),
                nn.LeakyReLU(0.1),
            ]
        self.residual = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, bias=False), make_norm(norm, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.leaky_relu(self.residual(x) + self.shortcut(x), 0.1), 2)


class ResNet12(RemembersArguments, nn.Module):
    """Four residual blocks, mean over space and a linear head; ``[n, C, H, W]`` to ``[n, output_size]``.

    Args:
        input_shape: channels, height and width of an image.
        output_size: classes.
        width: channels of the first block; the others have 2, 4 and 8 times as many.
        dropout: probability that a feature map is dropped after each block (0 to 1).
        norm: batch norm, batch norm without a scale (batch_shift), group norm or none.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (3, 84, 84),
        output_size: int = 5,
        width: int = 64,
        dropout: float = 0.0,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        at_least(1, width, "width")
        check_dropout(dropout)
        if len(input_shape) != 3 or min(input_shape[1:]) < 16:
            raise BadInput(f"ResNet12 takes images of 16x16 pixels or more, not samples of {input_shape}.")
        channels = [input_shape[0], width, 2 * width, 4 * width, 8 * width]
        blocks: list[nn.Module] = []
        for channels_in, channels_out in itertools.pairwise(channels):
            blocks.append(_Block(channels_in, channels_out, norm))
            if dropout > 0:
                blocks.append(nn.Dropout2d(dropout))
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels[-1], output_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))
