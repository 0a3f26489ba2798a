"""Batch norm that no longer looks at the batch: what an adapted model predicts does not depend on its neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from few_shot.lit_models.per_step_batch_norm import PerStepBatchNorm


class FixedNorm(nn.Module):
    """Batch norm by a given mean and variance, for inputs ``[n, C, ...]``.

    Args:
        mean: of each channel, ``[C]``.
        var: of each channel, ``[C]``.
        weight: scale of each channel, ``[C]``, or None.
        bias: shift of each channel, ``[C]``, or None.
        eps: what is added to the variance.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("var", var)
        self.weight, self.bias = (None if p is None else nn.Parameter(p.detach().clone()) for p in (weight, bias))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, training=False, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.mean)}, eps={self.eps}"


@torch.no_grad()
def fix_norms(model: nn.Module, samples: Tensor) -> None:
    """Replace a model's batch norms, in place, by ones that keep the statistics of these samples ``[n, ...]``.

    A batch norm with running statistics per step (MAML++) keeps those of its present step instead.
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm | PerStepBatchNorm)}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, x: Tensor) -> None:
        var, mean = torch.var_mean(x, dim=[d for d in range(x.dim()) if d != 1], correction=0)
        seen[name] = (mean, var)

    hooks = [
        norm.register_forward_pre_hook(lambda _, args, name=name: look(name, args[0])) for name, norm in norms.items()
    ]
    try:
        model(samples)
    finally:
        for hook in hooks:
            hook.remove()
    for name, norm in norms.items():
        if isinstance(norm, PerStepBatchNorm):
            weight, bias = norm.present_weights()
            mean, var = norm.present_statistics() if norm.statistics else seen[name]
        else:
            weight, bias, (mean, var) = norm.weight, norm.bias, seen[name]
        model.set_submodule(name, FixedNorm(mean, var, weight, bias, norm.eps))
