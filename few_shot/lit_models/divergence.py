"""Find an outer update whose loss or gradient is not finite."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from few_shot.errors import TrainingDiverged
from few_shot.lit_models.processes import gather


def what_diverged(
    update: int,
    tasks: Tensor,
    losses: Tensor,
    parameters: Sequence[nn.Parameter],
    trainer: Any,
) -> TrainingDiverged | None:
    """What is not finite in an outer update, to all processes alike; None if nothing is.

    Args:
        update: number of the outer update, from 1.
        tasks: the numbers of this process's tasks, ``[T]``.
        losses: their losses, ``[T]``.
        parameters: what is trained; gradients are in ``.grad``.
        trainer: the Trainer, which knows the processes.
    """
    values = torch.cat([losses, *(p.grad.flatten() for p in parameters if p.grad is not None)])
    if trainer.strategy.reduce_boolean_decision(math.isfinite(values.abs().max())):
        return None
    processes = trainer.world_size
    bad = gather(tasks[~torch.isfinite(losses)].tolist(), processes)
    what = "loss" if any(bad) else "gradient"
    named = bad if any(bad) else gather(tasks.tolist(), processes)
    return TrainingDiverged(what, update, sorted(itertools.chain(*named)))
