"""What a learner cannot work with, refused when it is built."""

from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from few_shot.errors import BadInput
from few_shot.files import shortened
from few_shot.private_parts import BatchNorm


def check_model(model: Any) -> None:
    """Raise BadInput if a learner cannot work with a model.

    PyTorch's ``functional_call`` leaves the weights of the call in a layer that it finds under two names. And a batch
    norm is replaced under one of them alone.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(f"model={shortened(model)} is no module: give an instance, such as Net() and not Net.")
    name = type(model).__name__
    if changed_by := getattr(model, "changed_by", None):
        raise BadInput(
            f"{changed_by} has changed the layers of this {name}, which is of use to no other learner now: give each "
            "learner a module of its own."
        )
    if not list(model.parameters()):
        raise BadInput(f"{name} has no weights: keep its layers in attributes or an nn.ModuleList.")
    if lazy := [path for path, p in model.named_parameters() if is_lazy(p)]:
        raise BadInput(f"{name} does not know the size of {lazy[0]} yet: call it on one sample first, {name}(x).")
    first: dict[nn.Module, str] = {}
    for path, layer in model.named_modules(remove_duplicate=False):
        has_weights = bool(list(layer.parameters(recurse=False)))
        if first.setdefault(layer, path) != path and (has_weights or isinstance(layer, BatchNorm)):
            kind = "layer with weights" if has_weights else "batch norm"
            raise BadInput(
                f"{name} holds one {kind} as {first[layer]} and as {path}: name it once, and call it twice in "
                "forward()."
            )
