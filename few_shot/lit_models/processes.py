"""What the processes of a run tell each other."""

from typing import Any

import torch
import torch.distributed
from torch import nn

from few_shot.episodes import EpisodeBatch


def gather(value: Any, processes: int) -> list:
    """The value of each of a Trainer's processes, in the order of ranks; of one process, its own.

    Each of several processes may also run a Trainer of one device: that one asks its own process alone.
    """
    if processes == 1:
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def have_the_same_tasks(batch: EpisodeBatch, processes: int) -> bool:
    """Whether the samples of all of a Trainer's processes are the same; no process may leave this out."""
    own = [float(x.double().sum()) for x in (batch.support_x, batch.query_x)]
    return all(sums == own for sums in gather(own, processes))


@torch.no_grad()
def equal_buffers(module: nn.Module) -> None:
    """Give each process the first one's buffers: what a model has drawn for itself may differ."""
    for buffer in module.buffers():
        values = buffer.contiguous()
        torch.distributed.broadcast(values, src=0)
        buffer.copy_(values)
