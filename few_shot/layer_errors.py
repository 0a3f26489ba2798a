"""Name the layer that cannot take its input, instead of the operation deep inside that failed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from few_shot.errors import BadInput
from few_shot.files import shortened


class Misfit(BadInput):
    """A layer cannot take the samples that it is given."""


def misfit(name: str, layer: nn.Module, sample_shape: Sequence[int], dtype: torch.dtype, error: Exception) -> Misfit:
    """The error of a layer that cannot take samples of this shape and number type, with what PyTorch says of it."""
    kind = str(dtype).removeprefix("torch.")
    reason = shortened(str(error).strip().partition("\n")[0].rstrip("."), 200)
    return Misfit(
        f"The model's layer {name}, {layer}, cannot take {kind} samples of shape {tuple(sample_shape)} ({reason})."
    )


def explain(model: nn.Module, x: Tensor, error: Exception) -> Exception:
    """What to raise when a model failed on samples ``[n, ...]``: its layer's error, or ``error`` as it is."""
    inside: list[tuple[str, nn.Module, Any]] = []  # the modules that have been entered and not left

    hooks = []
    for name, module in model.named_modules():
        hooks += [
            module.register_forward_pre_hook(lambda m, args, name=name: inside.append((name, m, args))),
            module.register_forward_hook(lambda m, args, output: inside.pop() and None),
        ]
    try:
        with torch.no_grad():
            model(x)
    except Exception as reason:
        if inside:
            name, layer, args = inside[-1]
            is_torchs = type(layer).__module__.startswith("torch.nn.")  # a layer of the user's own may mean its error
            if is_torchs and args and isinstance(args[0], Tensor):
                return misfit(name or type(model).__name__, layer, args[0].shape[1:], args[0].dtype, reason)
    finally:
        for hook in hooks:
            hook.remove()
    return error
