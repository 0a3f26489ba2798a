"""What models with pretrained weights share: the images as the weights want them, and a file of weights."""

import warnings
from collections.abc import Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from few_shot.arguments import do_weights_follow
from few_shot.errors import BadInput
from few_shot.files import given_path, open_file
from few_shot.weight_files import are_weights, read_torch, reason


class Normalize(nn.Module):
    """``(x - mean) / std`` for each channel of images ``[n, C, H, W]`` with values from 0 to 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def check_use(
    name: str, input_shape: Sequence[int], pretrained: bool, weights: str | None, frozen_norm: bool | None
) -> None:
    """Check that a model takes such images, and has what its arguments say.

    Raises:
        BadInput: the samples are no images, or have not the weights' 3 channels; or an argument that is of pretrained
            weights is given without them.
    """
    if len(input_shape) != 3:
        raise BadInput(f"{name} takes images, not samples of {tuple(input_shape)}.")
    if pretrained and input_shape[0] != 3:
        raise BadInput(f"pretrained=true needs images of 3 channels, and these have {input_shape[0]}.")
    if frozen_norm and not pretrained:
        raise BadInput("frozen_norm=true keeps the statistics of pretrained weights: add pretrained=true.")
    if weights is not None and not pretrained:
        raise BadInput(f"weights={weights} is where pretrained weights come from: add pretrained=true.")


def say_size(name: str, wanted: Sequence[int], size: Sequence[int]) -> None:
    """Say so if the weights were trained on images of another size (height and width) than they get."""
    if tuple(wanted) != tuple(size) and not do_weights_follow():
        advice = f"image_size={wanted[0]} suits them best" if wanted[0] == wanted[1] else "that size suits them best"
        trained, given = ("x".join(map(str, shape)) for shape in (wanted, size))
        warnings.warn(
            f"The weights of {name} are of {trained} pixels, and the images have {given}: {advice}.", stacklevel=3
        )


def read_weights(path: str) -> dict[str, Tensor]:
    """A state dict from a file that ``torch.save`` or safetensors wrote. Nothing in it is run as code.

    A dict that holds it as ``state_dict``, as training scripts write it, will do too.

    Raises:
        BadInput: there is no such file, or it holds no state dict.
    """
    file = given_path(path, "weights")
    try:
        if file.suffix == ".safetensors":
            open_file(file).close()  # refuses what is no file
            return load_file(file)
        content = read_torch(file)
    except FileNotFoundError:
        raise BadInput(f"weights={path} does not exist.") from None
    except Exception as error:
        raise BadInput(f"weights={path} cannot be read as .pt or .safetensors ({reason(error)}).") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not (content and are_weights(content)):
        raise BadInput(f"weights={path} holds no state dict, which maps names to tensors.")
    return dict(content)


def check_names(path: str, weights: dict[str, Tensor], model: nn.Module, name: str, without: str = "") -> None:
    """Raise BadInput if the file lacks a weight of the model, but for those whose name starts with ``without``."""
    needed = [n for n in model.state_dict() if not (without and n.startswith(without))]
    if lacking := [n for n in needed if n not in weights and not n.endswith("num_batches_tracked")]:
        raise BadInput(
            f"weights={path} holds the weights of another model than {name}: it has no {lacking[0]}, "
            f"and {len(lacking) - 1} others of {len(needed)} are missing too."
        )
