"""What a task scores."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from few_shot.episodes import EpisodeBatch


class TaskScores(NamedTuple):
    """Query loss and metric of T tasks, ``[T]`` each."""

    loss: Tensor
    metric: Tensor


def by_ways(batch: EpisodeBatch, ways: Tensor) -> list[tuple[Tensor, EpisodeBatch]]:
    """Tasks apart for each number of classes: which they are, ``[T]``, and the tasks.

    Args:
        ways: each task's number of classes, ``[T]``.
    """
    groups = [ways == n for n in ways.unique()]
    return [(tasks, EpisodeBatch(*(x[tasks] for x in batch))) for tasks in groups]


def scores_by_ways(
    batch: EpisodeBatch, ways: Tensor | None, score: Callable[[EpisodeBatch], list[TaskScores]]
) -> list[TaskScores]:
    """The scores of tasks, apart for each number of classes: a loss sees no output that a task lacks.

    Args:
        batch: the tasks.
        ways: each task's number of classes, ``[T]``; None where all have as many.
        score: tasks with as many classes to their scores after each of several inner steps.
    """
    if ways is None or bool((ways == ways[0]).all()):
        return score(batch)
    groups = by_ways(batch, ways)
    merged = []
    for of_a_step in zip(*(score(some) for _, some in groups), strict=True):
        whole = TaskScores(*(x.new_empty(len(batch.index)) for x in of_a_step[0]))
        for (tasks, _), scores in zip(groups, of_a_step, strict=True):
            for target, values in zip(whole, scores, strict=True):
                target[tasks] = values
        merged.append(whole)
    return merged
