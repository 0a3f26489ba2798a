"""The two seams of the outer rule, each task's loss and how a meta-batch's losses combine, against the plain loop."""

import numpy as np
import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from helpers import bare_trainer
from oracles import flat_gradient, meta_loss, relative_error

from few_shot.data import Sinusoid
from few_shot.episodes import EpisodeBatch
from few_shot.lit_models import LitMAML
from few_shot.lit_models.task_scores import TaskScores
from few_shot.models import SinusoidMLP

TASKS, STEPS, RATE = 5, 2, 0.05


class WorstTask(LitMAML):
    """Descends the loss of the task that does worst."""

    def combine(self, losses):
        return losses.max()


class VariancePenalty(LitMAML):
    """Wants tasks to do well alike."""

    def combine(self, losses):
        return losses.mean() + 0.5 * losses.var()


class LogLoss(LitMAML):
    """Descends the mean logarithm of the tasks' losses."""

    def outer_scores(self, batch):
        loss, metric = super().outer_scores(batch)
        return TaskScores(loss.log(), metric)


#: The combined loss of the tasks' own losses, as one would write it.
ORACLES = {
    WorstTask: lambda losses: max(losses, key=float),
    VariancePenalty: lambda losses: torch.stack(losses).mean() + 0.5 * torch.stack(losses).var(),
    LogLoss: lambda losses: torch.stack([loss.log() for loss in losses]).mean(),
}


def build(cls, tasks_at_once=None):
    torch.manual_seed(0)
    return cls(
        SinusoidMLP(width=8),
        loss="mse_loss",
        metric="mse",
        inner_lr=RATE,
        inner_loop_steps=STEPS,
        outer_optimizer="sgd",
        outer_lr=1.0,
        tasks_at_once=tasks_at_once,
    ).double()


def oracle_gradient(cls):
    model, data = build(cls).model, Sinusoid(support_samples=4)
    batch = data.prepare(data.draw("train", 0, np.arange(TASKS)), "train", torch.float64)
    each = [EpisodeBatch(*(x[i : i + 1] for x in batch)) for i in range(TASKS)]
    return flat_gradient(ORACLES[cls]([meta_loss(model, F.mse_loss, task, STEPS, RATE) for task in each]), model)


def outer_gradient(cls, tasks_at_once=None, **processes):
    """What plain SGD at rate 1 moves the weights by."""
    lit_model = build(cls, tasks_at_once)
    start = torch.nn.utils.parameters_to_vector(lit_model.parameters()).detach().clone()
    trainer = bare_trainer(max_steps=1, precision="64-true", **processes)
    trainer.fit(lit_model, datamodule=Sinusoid(support_samples=4, batch_size=TASKS))
    return start - torch.nn.utils.parameters_to_vector(lit_model.parameters()).detach()


@pytest.mark.parametrize("tasks_at_once", [1, 2, None])
@pytest.mark.parametrize("cls", ORACLES)
def test_the_gradient_is_that_of_the_whole_meta_batch(cls, tasks_at_once, float64):
    assert relative_error(outer_gradient(cls, tasks_at_once), oracle_gradient(cls)) < 1e-10


def test_combining_is_not_the_mean(float64):
    mean = flat_gradient(meta_loss((model := build(LitMAML).model), F.mse_loss, first_batch(), STEPS, RATE), model)
    assert all(relative_error(oracle_gradient(cls), mean) > 0.1 for cls in ORACLES)


def first_batch():
    data = Sinusoid(support_samples=4)
    return data.prepare(data.draw("train", 0, np.arange(TASKS)), "train", torch.float64)


def _save_gradients(rank, port, folder):
    """One of two processes, started as a cluster would: five tasks are shared as two and three."""
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "RANK": str(rank)}
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    found = {
        f"{cls.__name__} {tasks}": outer_gradient(cls, tasks, strategy="ddp", devices=2)
        for cls in ORACLES
        for tasks in (1, 2, None)
    }
    torch.save(found, folder / f"{rank}.pt")


def test_two_processes_are_one(tmp_path, float64):
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    port = find_free_network_port()
    torch.multiprocessing.spawn(_save_gradients, (port, tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for cls in ORACLES:
        for tasks in (1, 2, None):
            gradients = [rank[f"{cls.__name__} {tasks}"] for rank in ranks]
            assert torch.equal(*gradients)
            assert relative_error(gradients[0], oracle_gradient(cls)) < 1e-10, (cls, tasks)


def test_the_logged_loss_is_the_combined_one(float64):
    lit_model = build(VariancePenalty)
    trainer = bare_trainer(max_steps=1, precision="64-true", log_every_n_steps=1)
    trainer.fit(lit_model, datamodule=Sinusoid(support_samples=4, batch_size=TASKS))
    losses = build(VariancePenalty).outer_scores(first_batch()).loss
    expected = losses.mean() + 0.5 * losses.var()
    assert trainer.logged_metrics["train_loss"].item() == pytest.approx(expected.item(), rel=1e-12)


def test_dropout_drops_the_same_when_a_chunk_is_computed_again(float64):
    """The weights of the losses belong to the very losses that are descended."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    seen = []

    class Watched(WorstTask):
        def outer_scores(self, batch):
            scores = super().outer_scores(batch)
            seen.append(scores.loss.detach().clone())
            return scores

    lit_model = Watched(model, loss="mse_loss", metric="mse", tasks_at_once=2).double()
    data = Sinusoid(support_samples=4, batch_size=TASKS)
    bare_trainer(max_steps=1, precision="64-true").fit(lit_model, datamodule=data)
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    torch.testing.assert_close(first, second, rtol=1e-12, atol=0)
