"""The gradient of a meta-batch's loss, added up over chunks of tasks and over processes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor

from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.lit_models.chunks import chunks
from few_shot.lit_models.processes import gather
from few_shot.lit_models.task_scores import TaskScores


class Outcome(NamedTuple):
    """What an outer update is about. Its gradient is in the parameters' ``.grad``."""

    scores: TaskScores  # of this process's tasks
    loss: Tensor  # [], to log: its mean over processes is the meta-batch's loss
    share: float | Tensor  # what a task's value weighs in this process's part of such a mean, []


def add_up_gradient(learner: Any, batch: EpisodeBatch) -> Outcome:
    """Add the gradient of the meta-batch's loss to the parameters' ``.grad``.

    Gradients and logs are averaged over processes, and their shares of the meta-batch may differ by a task. So with
    the mean loss, a task weighs as many times 1 / tasks as there are processes. Any other combination of the losses
    needs them all first: a single chunk's are at hand, of several chunks a first pass finds them.
    """
    trainer = learner.trainer
    share = trainer.world_size / _meta_batch_size(trainer, len(batch.index), learner.device)
    parts = chunks(batch, learner.tasks_at_once)
    weights: Sequence[Tensor | None] = [None] * len(parts)
    loss = None
    if not learner.combines_by_mean and len(parts) > 1:
        # Forked, so that the second pass draws the same random numbers.
        with torch.random.fork_rng([batch.index.device] if batch.index.is_cuda else []), torch.no_grad():
            losses = torch.cat([learner.training_scores(part).loss for part in parts])
        loss, all_weights = _combined(learner, losses)
        weights = all_weights.split([len(part.index) for part in parts])
    found = []
    for i, (part, weight) in enumerate(zip(parts, weights, strict=True), start=1):
        scores = learner.training_scores(part)
        if learner.combines_by_mean:
            weight = torch.ones_like(scores.loss) * share
        elif weight is None:
            loss, weight = _combined(learner, scores.loss)
        with nullcontext() if i == len(parts) else _without_synchronisation(trainer):
            learner.manual_backward(scores.loss, weight)
        found.append(TaskScores(scores.loss.detach(), scores.metric))
    scores = found[0] if len(found) == 1 else TaskScores(*map(torch.cat, zip(*found, strict=True)))
    return Outcome(scores, share * scores.loss.sum() if loss is None else loss, share)


def _combined(learner: Any, losses: Tensor) -> tuple[Tensor, Tensor]:
    """The combined loss of all processes' tasks, and its derivative by each of this process's losses, ``[T]``.

    The derivative is multiplied by the number of processes, because their gradients are averaged.
    """
    everybodys = [part.to(losses) for part in gather(losses.detach().cpu(), learner.trainer.world_size)]
    own = everybodys[learner.global_rank].requires_grad_()
    with torch.enable_grad():
        loss = learner.combine(torch.cat(everybodys))
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise BadInput(f"{type(learner).__name__}.combine must return one number, a tensor of shape [].")
        (weights,) = torch.autograd.grad(loss, own)
    return loss.detach(), learner.trainer.world_size * weights


def _meta_batch_size(trainer: pl.Trainer, tasks: int, device: torch.device) -> float | Tensor:
    """Tasks in this outer update over all processes; on the device, for reading it would make a GPU wait."""
    if trainer.world_size == 1:
        return tasks
    return trainer.strategy.reduce(torch.full((), tasks, dtype=torch.float64, device=device), reduce_op="sum")


def _without_synchronisation(trainer: pl.Trainer) -> AbstractContextManager:
    """Processes do not average their gradients in here: they do it once, with the last chunk's."""
    strategy = trainer.strategy
    return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()
