"""The network after adaptation to one task, as a plain module."""

import copy

from torch import Tensor, nn

from few_shot.errors import BadInput
from few_shot.inner_optimizers import Weights


def with_weights(model: nn.Module, fast_weights: Weights) -> nn.Module:
    """A copy of a model with one task's fast weights ``[1, ...]``."""
    adapted = copied(model).requires_grad_(False)
    own = dict(adapted.named_parameters())
    for name, weight in fast_weights.items():
        own[name].copy_(weight[0])
    return adapted


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that are neither parameters nor buffers, such as activations it has stored, are shared."""
    plain = [x for module in model.modules() for x in vars(module).values() if isinstance(x, Tensor)]
    return copy.deepcopy(model, {id(x): x for x in plain})


class FirstOutputs(nn.Module):
    """A model's first outputs, ``[n, classes]``: a task with fewer classes than the model has outputs uses no others.

    Args:
        model: inputs ``[n, ...]`` to outputs ``[n, out]``.
        classes: how many there are.
    """

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, : self.classes]


def check_outputs(outputs: int, classes: int) -> None:
    """Raise BadInput unless a model has an output for each class."""
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
