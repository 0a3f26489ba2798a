"""torchvision's ResNet-18 with a head sized to the episode."""

from typing import ClassVar
from urllib.error import URLError

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from few_shot.arguments import RemembersArguments
from few_shot.errors import BadInput


class ResNetClassifier(RemembersArguments, nn.Module):
    """ResNet-18 (He et al. 2016); ``[n, C, H, W]`` to ``[n, output_size]``.

    Args:
        input_shape: channels, height and width of an image.
        output_size: classes.
        pretrained: whether to start from torchvision's ImageNet weights (downloaded once, 45 MB). They have seen
            mini-ImageNet's test classes, so a result with them is not a few-shot result on it.
    """

    #: Arguments of a model whose weights come from a checkpoint.
    when_loaded: ClassVar = {"pretrained": False}

    def __init__(
        self, input_shape: tuple[int, ...] = (3, 84, 84), output_size: int = 5, pretrained: bool = False
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise BadInput(f"ResNetClassifier takes images, not samples of {input_shape}.")
        if pretrained and input_shape[0] != 3:
            raise BadInput(f"pretrained=true needs images of 3 channels, and these have {input_shape[0]}.")
        try:
            self.resnet = resnet18(weights=ResNet18_Weights.DEFAULT if pretrained else None)
        except (URLError, OSError) as error:
            raise BadInput(f"pretrained=true could not download the weights ({error}): check the network.") from error
        if input_shape[0] != 3:
            self.resnet.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False)
        self.resnet.fc = nn.Linear(self.resnet.fc.in_features, output_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet(x)
