"""What the processes of a run tell each other."""

from typing import Any

import torch
import torch.distributed


def gather(value: Any) -> list:
    """Every process's value, in the order of ranks; of one process, its own."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
