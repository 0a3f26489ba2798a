"""Batch norm that no longer looks at the batch: what an adapted model predicts does not depend on its neighbours."""

import torch
from torch import Tensor, nn

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
        BadInput: the model uses one twice, and each use has statistics of its own.
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

    hooks = [
        norm.register_forward_pre_hook(lambda _, args, name=name: look(name, args[0])) for name, norm in norms.items()
    ]
    try:
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
