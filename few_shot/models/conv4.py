"""The four-block convolutional network of the few-shot literature (Vinyals et al. 2016; Finn et al. 2017)."""

from typing import Literal

from torch import Tensor, nn

from few_shot.arguments import RemembersArguments
from few_shot.errors import BadInput, at_least
from few_shot.models.norm import Activation, InitialWeights, Norm, check_dropout, initialize, make_activation, make_norm


class Conv4(RemembersArguments, nn.Module):
    """Four blocks of 3x3 convolution, norm, activation and halving, then a linear head.

    It maps ``[n, C, H, W]`` to ``[n, output_size]``.

    With ``downsample="max_pool"`` (mini-ImageNet, CIFAR-FS) the head sees all the last block's features; with
    ``"stride"`` (Omniglot) convolutions have stride 2 and the head sees their mean over space, as in MAML's code.

    Args:
        input_shape: channels, height and width of an image.
        output_size: classes.
        width: channels of every block (filters).
        downsample: halve by 2x2 max-pooling or by strided convolutions.
        dropout: probability that a feature map is dropped after each block (0 to 1).
        norm: batch norm, batch norm without a scale (batch_shift), group norm or none.
        activation: ReLU or leaky ReLU.
        initial_weights: PyTorch's own, Xavier uniform, or those of MAML's code for Omniglot (finn2017).
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (3, 84, 84),
        output_size: int = 5,
        width: int = 32,
        downsample: Literal["max_pool", "stride"] = "max_pool",
        dropout: float = 0.0,
        norm: Norm = "batch",
        activation: Activation = "relu",
        initial_weights: InitialWeights = "torch",
    ) -> None:
        super().__init__()
        at_least(1, width, "width")
        check_dropout(dropout)
        if len(input_shape) != 3:
            raise BadInput(f"Conv4 takes images [channels, height, width], not samples of {input_shape}.")
        channels, height, width_in = input_shape
        strided = downsample == "stride"
        blocks: list[nn.Module] = []
        for _ in range(4):
            blocks += [
                nn.Conv2d(channels, width, 3, stride=2 if strided else 1, padding=1),
                make_norm(norm, width),
                make_activation(activation),
            ]
            if not strided:
                blocks.append(nn.MaxPool2d(2))
            if dropout > 0:
                blocks.append(nn.Dropout2d(dropout))
            channels = width
        if strided:
            blocks.append(nn.AdaptiveAvgPool2d(1))
        elif min(height, width_in) < 16:
            raise BadInput(f"Conv4 halves four times and needs 16x16 pixels, not {height}x{width_in}.")
        features = width if strided else width * (height // 16) * (width_in // 16)
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(features, output_size)
        initialize(self.body, self.head, initial_weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))
