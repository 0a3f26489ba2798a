"""Batch norm that no longer looks at the batch: what an adapted model predicts does not depend on its neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from few_shot.errors import BadInput
from few_shot.lit_models.per_step_batch_norm import PerStepBatchNorm
from few_shot.models.norm import FixedNorm, replace_norm
from few_shot.private_parts import BatchNorm


@torch.no_grad()
def fix_norms(model: nn.Module, samples: Tensor) -> None:
    """Replace a model's batch norms, in place, by ones that keep the statistics of these samples ``[n, ...]``.

    A batch norm with running statistics per step (MAML++) keeps those of its present step instead. One that is frozen
    with pretrained weights stays as it is, and so does one that the model does not use.

    Raises:
        BadInput: the model uses one twice, and each use has statistics of its own; or it calls ``F.batch_norm`` outside
            of such a layer.
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, BatchNorm | PerStepBatchNorm)}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, x: Tensor) -> None:
        if name in seen:
            raise BadInput(
                f"{type(model).__name__} uses its batch norm {name} more than once, and has one set of statistics for "
                "it: give each use a layer of its own, or adapt with transductive=True."
            )
        var, mean = torch.var_mean(x, dim=[d for d in range(x.dim()) if d != 1], correction=0)
        seen[name] = (mean, var)

    others = _OtherNorms(type(model).__name__)
    hooks = []
    for name, norm in norms.items():
        hooks.append(norm.register_forward_pre_hook(lambda _, args, name=name: look(name, args[0])))
        hooks.append(norm.register_forward_pre_hook(lambda *_: others.within_a_layer(True)))
        hooks.append(norm.register_forward_hook(lambda *_: others.within_a_layer(False)))
    try:
        with others:
            model(samples)
    finally:
        for hook in hooks:
            hook.remove()
    for name, norm in norms.items():
        if name not in seen:
            continue
        if isinstance(norm, PerStepBatchNorm):
            weight, bias = norm.present_weights()
            mean, var = norm.present_statistics() if norm.statistics else seen[name]
        else:
            weight, bias, (mean, var) = norm.weight, norm.bias, seen[name]
        replace_norm(model, name, FixedNorm(mean, var, weight, bias, norm.eps))


class _OtherNorms(TorchFunctionMode):
    """Refuses batch norm by the batch's statistics outside of the layers that are known.

    Args:
        model: the model's name.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model, self.known = model, False

    def within_a_layer(self, known: bool) -> None:
        """Whether what comes now is done by a layer that is known."""
        self.known = known

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.batch_norm and not self.known and _by_the_batch(*args, **(kwargs or {})):
            raise BadInput(
                f"{self.model} calls F.batch_norm itself, with the statistics of the batch: give it an nn.BatchNorm "
                "layer instead, or adapt with transductive=True."
            )
        return func(*args, **(kwargs or {}))


def _by_the_batch(x, running_mean=None, running_var=None, weight=None, bias=None, training=False, *_, **__) -> bool:
    return training
