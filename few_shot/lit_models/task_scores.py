"""What a task scores."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from few_shot.episodes import EpisodeBatch


class TaskScores(NamedTuple):
    """Query loss and metric of T tasks, ``[T]`` each."""

    loss: Tensor
    metric: Tensor


def scores_by_ways(
    batch: EpisodeBatch, ways: Tensor | None, score: Callable[[EpisodeBatch], list[TaskScores]]
) -> list[TaskScores]:
    """What tasks score, those with as many classes together: no loss sees an output that a task does not have.

    Args:
        batch: the tasks.
        ways: each task's number of classes, ``[T]``; None where all have as many.
        score: tasks with as many classes to their scores after each of several inner steps.
    """
    groups = [] if ways is None else [ways == n for n in ways.unique()]
    if len(groups) < 2:
        return score(batch)
    of_groups = [score(EpisodeBatch(*(x[tasks] for x in batch))) for tasks in groups]
    merged = []
    for of_a_step in zip(*of_groups, strict=True):
        whole = TaskScores(*(x.new_empty(len(batch.index)) for x in of_a_step[0]))
        for tasks, scores in zip(groups, of_a_step, strict=True):
            for target, values in zip(whole, scores, strict=True):
                target[tasks] = values
        merged.append(whole)
    return merged
