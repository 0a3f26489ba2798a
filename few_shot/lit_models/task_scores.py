"""What a task scores."""

from typing import NamedTuple

from torch import Tensor


class TaskScores(NamedTuple):
    """Query loss and metric of T tasks, ``[T]`` each."""

    loss: Tensor
    metric: Tensor
