"""The network after adaptation to one task, as a plain module."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from few_shot.adaptation import head_name
from few_shot.errors import BadInput
from few_shot.inner_optimizers import Weights


def with_weights(model: nn.Module, fast_weights: Weights, classes: int | None) -> nn.Module:
    """A copy of a model with one task's fast weights ``[1, ...]``, and outputs for so many classes (None for all)."""
    adapted = copied(model).requires_grad_(False)
    own = dict(adapted.named_parameters())
    for name, weight in fast_weights.items():
        own[name].copy_(weight[0])
    if classes is not None and (head := linear_head(adapted)) is not None and head.out_features > classes:
        has_bias = head.bias is not None
        fewer = nn.Linear(head.in_features, classes, has_bias, device=head.weight.device, dtype=head.weight.dtype)
        for name, p in head.named_parameters():
            setattr(fewer, name, nn.Parameter(p[:classes], requires_grad=False))
        if not (name := head_name(adapted)):
            return fewer
        adapted.set_submodule(name, fewer)
    return adapted


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that are neither parameters nor buffers, such as activations it has stored, are shared."""
    plain = [x for module in model.modules() for x in vars(module).values() if isinstance(x, Tensor)]
    return copy.deepcopy(model, {id(x): x for x in plain})


def linear_head(model: nn.Module) -> nn.Linear | None:
    """The model's head, if it is a linear layer with a weight of its own."""
    head = model.get_submodule(head_name(model))
    return head if isinstance(head, nn.Linear) and not is_parametrized(head) else None


def check_outputs(model: nn.Module, classes: int, x: Tensor) -> None:
    """Raise BadInput unless a model can have outputs for so many classes: it has fewer, or more and no linear head.

    Args:
        model: the model.
        classes: how many there are.
        x: samples that it can be tried on, ``[n, ...]``.
    """
    head = linear_head(model)
    with torch.no_grad():
        outputs = model(x).shape[-1] if head is None else head.out_features
    if outputs > classes and head is None:
        raise BadInput(
            f"There are {classes} classes, and {type(model).__name__} has {outputs} outputs and no linear head: it can "
            "only adapt to as many classes as it has outputs."
        )
    if outputs < classes:
        raise BadInput(
            f"There are {classes} classes, and the model has {outputs} outputs: ProtoNet and ProtoMAML take any number "
            "of classes."
        )


class NearestPrototype(nn.Module):
    """Logits ``[n, N]``: minus the squared distance of a sample's embedding to each prototype (Snell et al. 2017).

    Args:
        embed: the network, inputs ``[n, ...]`` to features ``[n, f]``.
        prototypes: one for each class, ``[N, f]``.
    """

    prototypes: Tensor

    def __init__(self, embed: nn.Module, prototypes: Tensor) -> None:
        super().__init__()
        self.embed = embed
        self.register_buffer("prototypes", prototypes)

    def forward(self, x: Tensor) -> Tensor:
        return -(self.embed(x)[:, None] - self.prototypes).square().sum(-1)
