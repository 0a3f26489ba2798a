"""Any backbone of timm, which has hundreds, with a head sized to the episode (Wightman 2019)."""

import difflib
import importlib
from typing import Any

import torch
from torch import Tensor, nn

from few_shot.arguments import RemembersArguments, do_weights_follow
from few_shot.errors import BadInput
from few_shot.models.norm import freeze_norms
from few_shot.models.pretrained import Normalize, check_names, check_use, read_weights, say_size


class Timm(RemembersArguments, nn.Module):
    """A backbone of timm and a linear head; ``[n, C, H, W]`` to ``[n, output_size]``.

    Args:
        input_shape: channels, height and width of an image.
        output_size: classes.
        name: timm's name of the backbone, such as resnet18, efficientnet_b0 or vit_small_patch16_224.
        pretrained: whether to start from the weights that timm has for it (downloaded once). Images, with values from 0
            to 1, are brought to the mean and spread that the weights want. Most have seen mini-ImageNet's test classes,
            so a result with them is not a few-shot result on it.
        weights: with pretrained, a file with the weights instead, .pt or .safetensors.
        frozen_norm: whether batch norm keeps the statistics of the pretrained weights and never looks at the batch;
            None for yes with pretrained weights.

    Raises:
        BadInput: timm is not installed or does not know the name; or the weights cannot be had, or do not fit the
            model or the images.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...] = (3, 224, 224),
        output_size: int = 5,
        name: str = "resnet18",
        pretrained: bool = False,
        weights: str | None = None,
        frozen_norm: bool | None = None,
    ) -> None:
        super().__init__()
        check_use("Timm", input_shape, pretrained, weights, frozen_norm)
        published = _published(name)
        self.normalize = Normalize(published.mean, published.std) if pretrained else nn.Identity()
        if pretrained:
            say_size(name, published.input_size[1:], input_shape[1:])
        self.body = _body(name, input_shape, published, pretrained and not do_weights_follow(), weights)
        if pretrained and frozen_norm is not False:
            freeze_norms(self.body)
        self.head = nn.Linear(_features(self.body, name, input_shape), output_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.normalize(x)))


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise BadInput("Timm needs the package timm, which is not installed: pip install timm.") from None


def _published(name: str) -> Any:
    """What timm says of the weights it has for a backbone: their images' mean, spread and size among others."""
    timm = _timm()
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        advice = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() has all names."
        raise BadInput(f"name={name} is no backbone of timm; {advice}")
    return timm.get_pretrained_cfg(name)


def _body(name: str, input_shape: tuple[int, ...], published: Any, load: bool, path: str | None) -> nn.Module:
    """The backbone without its head, with weights if it is to load some."""
    arguments: dict[str, Any] = {"num_classes": 0, "in_chans": input_shape[0]}
    if published.fixed_input_size:
        arguments["img_size"] = tuple(input_shape[1:])
    found = None
    if load and path is not None:
        found = read_weights(path)
        # Not the path itself: timm reads files of other kinds, and not only as plain data.
        arguments["pretrained_cfg_overlay"] = {"state_dict": dict(found), "custom_load": False}
    try:
        body = _timm().create_model(name, pretrained=load, **arguments)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        if not load:
            raise BadInput(f"name={name} cannot take images of {input_shape} ({reason}).") from error
        if found is None:
            raise BadInput(
                f"pretrained=true could not load the weights of {name} ({reason}): check the network, or name a file "
                "with weights=."
            ) from error
        raise BadInput(f"weights={path} does not fit {name} ({reason}).") from error
    if found is not None:
        check_names(str(path), found, body, name)  # timm passes over what is missing
    for module in body.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # fused attention has no second derivative
    return body


def _features(body: nn.Module, name: str, input_shape: tuple[int, ...]) -> int:
    """How many features the backbone has for an image."""
    try:
        with torch.no_grad():
            features = body.eval()(torch.zeros(1, *input_shape))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(f"name={name} cannot take images of {input_shape} ({reason}).") from error
    body.train()
    return features.shape[1]
