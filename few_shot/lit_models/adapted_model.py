"""The network after adaptation to one task, as a plain module."""

import copy

from torch import Tensor, nn

from few_shot.adaptation import head_name
from few_shot.errors import BadInput
from few_shot.inner_optimizers import Weights


def with_weights(model: nn.Module, fast_weights: Weights, classes: int | None) -> nn.Module:
    """A copy of a model with one task's fast weights ``[1, ...]``, and outputs for so many classes (None for all)."""
    adapted = copy.deepcopy(model).requires_grad_(False)
    own = dict(adapted.named_parameters())
    for name, weight in fast_weights.items():
        own[name].copy_(weight[0])
    if classes is not None and (head := linear_head(adapted)) is not None and head.out_features > classes:
        fewer = nn.Linear(head.in_features, classes, device=head.weight.device, dtype=head.weight.dtype)
        fewer.weight, fewer.bias = (nn.Parameter(p[:classes], requires_grad=False) for p in (head.weight, head.bias))
        adapted.set_submodule(head_name(adapted), fewer)
    return adapted


def linear_head(model: nn.Module) -> nn.Linear | None:
    """The model's head, if it is a linear layer with a bias."""
    head = model.get_submodule(head_name(model))
    return head if isinstance(head, nn.Linear) and head.bias is not None else None


def check_outputs(model: nn.Module, classes: int) -> None:
    """Raise BadInput unless a model can have outputs for so many classes: it has fewer, or no linear head."""
    head = linear_head(model)
    if head is None:
        raise BadInput(
            f"{type(model).__name__} has no linear head: it can only adapt to as many classes as it has outputs."
        )
    if head.out_features < classes:
        raise BadInput(
            f"There are {classes} classes, and the model has {head.out_features} outputs: ProtoNet and ProtoMAML take "
            "any number of classes."
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
