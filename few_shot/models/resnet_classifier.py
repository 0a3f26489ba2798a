"""torchvision's ResNet-18 with a head sized to the episode."""

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from few_shot.arguments import RemembersArguments, do_weights_follow
from few_shot.errors import BadInput
from few_shot.models.norm import freeze_norms
from few_shot.models.pretrained import Normalize, check_names, check_use, read_weights, say_size


class ResNetClassifier(RemembersArguments, nn.Module):
    """ResNet-18 (He et al. 2016); ``[n, C, H, W]`` to ``[n, output_size]``.

    Args:
        input_shape: channels, height and width of an image.
        output_size: classes.
        pretrained: whether to start from ImageNet weights, torchvision's (downloaded once, 45 MB). Images, with values
            from 0 to 1, are brought to the mean and spread that the weights want. They have seen mini-ImageNet's test
            classes, so a result with them is not a few-shot result on it.
        weights: with pretrained, a file with the weights instead, .pt or .safetensors.
        frozen_norm: whether batch norm keeps the statistics of the pretrained weights and never looks at the batch;
            None for yes with pretrained weights.

    Raises:
        BadInput: the weights cannot be had, or do not fit the model or the images.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (3, 84, 84),
        output_size: int = 5,
        pretrained: bool = False,
        weights: str | None = None,
        frozen_norm: bool | None = None,
    ) -> None:
        super().__init__()
        check_use("ResNetClassifier", input_shape, pretrained, weights, frozen_norm)
        self.normalize: nn.Module = nn.Identity()
        self.resnet = resnet18()
        if pretrained:
            published = ResNet18_Weights.DEFAULT.transforms()
            self.normalize = Normalize(published.mean, published.std)
            say_size("ResNet-18", published.crop_size * 2, input_shape[1:])
            if not do_weights_follow():
                self._load(weights)
            if frozen_norm is not False:
                freeze_norms(self.resnet)
        elif input_shape[0] != 3:
            self.resnet.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False)
        self.resnet.fc = nn.Linear(self.resnet.fc.in_features, output_size)

    def _load(self, path: str | None) -> None:
        """Load the body's weights, from a file or from torchvision."""
        if path is None:
            try:
                weights = ResNet18_Weights.DEFAULT.get_state_dict(check_hash=True)
            except OSError as error:
                raise BadInput(
                    f"pretrained=true could not download the weights ({error}): check the network, or name a file with "
                    "weights=."
                ) from error
        else:
            weights = read_weights(path)
            check_names(path, weights, self.resnet, "ResNet-18", without="fc.")
        self.resnet.load_state_dict({n: w for n, w in weights.items() if not n.startswith("fc.")}, strict=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet(self.normalize(x))
