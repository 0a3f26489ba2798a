"""What every algorithm shares: the outer update, its logs, and evaluation episode by episode."""

import importlib
import inspect
import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
import torch.distributed
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from few_shot.adaptation import task_loss
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput, TrainingDiverged, above_zero, at_least
from few_shot.evaluation import EpisodeResults
from few_shot.fast_path.compilation import compile_scores
from few_shot.metrics import METRICS, metric_by_name

#: Input values computed at once on the CPU: two of mini-ImageNet's 1-shot tasks, too much for any cache already.
VALUES_AT_ONCE = 5_000_000


class TaskScores(NamedTuple):
    """Query loss and metric (accuracy or mean squared error) of T tasks, ``[T]`` each."""

    loss: Tensor
    metric: Tensor


class LitMetaLearner(pl.LightningModule):
    """Manual optimisation of a meta-loss. An algorithm implements :meth:`outer_scores` and
    :meth:`step_predictions`.

    An algorithm that has no head sized to the episode sets ``fixed_ways`` to False: it may train wider than it tests.

    Args:
        model: the backbone. Its batch norm is made to use the statistics of the batch in front of it.
        loss: a function of torch.nn.functional by name, or any function by its dotted name; it maps one task's
            predictions and targets to their mean loss.
        metric: what is reported beside the loss.
        test_inner_loop_steps: inner steps in validation and test, 0 or more.
        transductive: whether batch norm in evaluation sees the query samples of an episode together, as the papers
            do; off, it takes the support set's statistics.
        outer_optimizer: the optimiser of the outer loop.
        outer_lr: learning rate of the outer loop.
        outer_schedule: keep the outer rate, or let it fall to zero along a cosine over max_steps.
        tasks_at_once: tasks whose graphs are in memory at the same time in training; None for all, but on the CPU for
            no more than five million input values, where more take memory and gain hardly any time.
        weight_decay: L2 penalty on the model's weights in the outer optimiser (decoupled in adamw).
        gradient_clip_val: bound on the outer gradient; None for no bound.
        gradient_clip_algorithm: bound the gradient's norm, or each of its elements (value).
        track_grad_norm: log the outer gradient's norm of this order, before clipping; None not to.
        log_gradient_histograms: whether to log a histogram of each parameter's outer gradient.

    Raises:
        BadInput: a number is out of its range, or the loss is unknown.
    """

    fixed_ways = True

    def __init__(
        self,
        model: nn.Module,
        loss: str = "cross_entropy",
        metric: Literal["accuracy", "mse"] = "accuracy",
        test_inner_loop_steps: int = 10,
        transductive: bool = True,
        outer_optimizer: Literal["adam", "adamw", "sgd"] = "adam",
        outer_lr: float = 1e-3,
        outer_schedule: Literal["constant", "cosine"] = "constant",
        tasks_at_once: int | None = None,
        weight_decay: float = 0.0,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        track_grad_norm: float | None = None,
        log_gradient_histograms: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        above_zero("outer_lr", outer_lr)
        above_zero("gradient_clip_val", gradient_clip_val)
        above_zero("track_grad_norm", track_grad_norm)
        if weight_decay < 0:
            raise BadInput(f"--weight_decay={weight_decay} must not be negative.")
        self.model = torch.func.replace_all_batch_norm_modules_(model)
        self.metric = metric_by_name(metric).name
        self.loss = task_loss(_loss_by_name(loss, METRICS[metric].of_classes))
        self.test_inner_loop_steps = at_least(0, test_inner_loop_steps, "test_inner_loop_steps")
        self.transductive = transductive
        self.outer_optimizer = outer_optimizer
        self.outer_lr = outer_lr
        self.outer_schedule = outer_schedule
        self.tasks_at_once = None if tasks_at_once is None else at_least(1, tasks_at_once, "tasks_at_once")
        self.weight_decay = weight_decay
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.track_grad_norm = track_grad_norm
        self.log_gradient_histograms = log_gradient_histograms
        self.config: dict[str, Any] | None = None  # the run's resolved flags, kept in its checkpoints
        self.results: EpisodeResults | None = None  # of the last validation or test, over all processes
        self.members: list[dict[str, Tensor]] = []  # an ensemble's weights: a test is of it while there are any
        self._batches: list[tuple[Tensor, list[int], Tensor, Tensor]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # what Lightning is calling, noted thirty times an update: no module's business
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # What an algorithm answers.

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        """Each training task's contribution to the outer loss, with its graph."""
        raise NotImplementedError

    def step_predictions(self, batch: EpisodeBatch, steps: list[int]) -> list[Tensor]:
        """Query predictions ``[T, N*Q, out]`` after the given numbers of inner steps; called without a graph."""
        raise NotImplementedError

    # The outer loop.

    def compile_outer_step(self) -> None:
        """Compile :meth:`outer_scores` and its gradient, when it is first called; what cannot be runs as it is."""
        plain = self.outer_scores
        compiled = compile_scores(plain, [p for p in self.parameters() if p.requires_grad])

        def outer_scores(batch: EpisodeBatch) -> TaskScores:
            reason = self.reason_not_to_compile(batch)
            if reason is None:
                try:
                    return TaskScores(*compiled(batch))
                except Exception as error:
                    reason = f"it cannot be compiled: {str(error).strip().splitlines()[0]}"
            rank_zero_warn(f"--compile: this experiment runs as it is ({reason}).")
            self.outer_scores = plain  # type: ignore[method-assign]
            return plain(batch)

        self.outer_scores = outer_scores  # type: ignore[method-assign]

    def reason_not_to_compile(self, batch: EpisodeBatch) -> str | None:
        """Why a batch's step should not be compiled although asked for; None where it should. Asked at every step."""
        return None

    def scores(self, predictions: Tensor, targets: Tensor) -> TaskScores:
        """Loss and metric of T tasks; predictions ``[T, n, out]``, targets ``[T, n]`` or ``[T, n, 1]``."""
        with torch.no_grad():
            metric = METRICS[self.metric].scores(predictions, targets)
        return TaskScores(self.loss(predictions, targets), metric)

    def configure_optimizers(self) -> Any:
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        others = [p for name, p in self.named_parameters() if not name.startswith("model.")]  # learned rates
        groups = [{"params": list(self.model.parameters()), "weight_decay": self.weight_decay}]
        groups += [{"params": others, "weight_decay": 0.0}] if others else []
        return kinds[self.outer_optimizer](groups, lr=self.outer_lr, fused=True)

    def outer_rate(self, update: int) -> float:
        """The outer learning rate of an update (from 0), of which there are ``max_steps``."""
        if self.outer_schedule == "constant":
            return self.outer_lr
        return self.outer_lr * (1 + math.cos(math.pi * update / self.trainer.max_steps)) / 2

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """One outer update from the mean query loss of the meta-batch's tasks, those of other processes included."""
        optimizer: Any = self.optimizers()
        optimizer.param_groups[0]["weight_decay"] = self.weight_decay  # a resumed run's flags win over its checkpoint
        for group in optimizer.param_groups:
            group["lr"] = self.outer_rate(self.global_step)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for p in parameters:
            p.grad = None  # zero_grad would open a profiled section for it
        # Processes' gradients are averaged, and their shares of the meta-batch may differ by a task.
        weight = self.trainer.world_size / self._meta_batch_size(batch)
        chunks = self.chunks(batch)
        found = []
        for i, chunk in enumerate(chunks, start=1):
            scores = self.outer_scores(chunk)
            with nullcontext() if i == len(chunks) else self._without_synchronisation():
                self.manual_backward(scores.loss, torch.full_like(scores.loss, weight))
            found.append(TaskScores(scores.loss.detach(), scores.metric))
        scores = found[0] if len(found) == 1 else TaskScores(*map(torch.cat, zip(*found, strict=True)))
        self._stop_unless_finite(batch, scores.loss, parameters)
        trainer: Any = self.trainer
        logging = (batch_idx + 1) % trainer.log_every_n_steps == 0
        if logging:
            self._log_gradients()
        if self.gradient_clip_val is not None:
            # Not by Lightning, which under autocast refuses to clip for a fused optimiser.
            norm = self.gradient_clip_algorithm == "norm"
            clip = torch.nn.utils.clip_grad_norm_ if norm else torch.nn.utils.clip_grad_value_
            clip(parameters, self.gradient_clip_val)
        optimizer.step()
        if logging:
            self.log("train_loss", weight * scores.loss.sum(), prog_bar=True, sync_dist=True)
            if METRICS[self.metric].of_classes:  # an error says no more than the loss
                self.log(f"train_{self.metric}", weight * scores.metric.sum(), prog_bar=True, sync_dist=True)

    # Lightning looks for ``batch_idx`` in it before every update.
    training_step.__signature__ = inspect.signature(training_step)  # type: ignore[attr-defined]

    def chunks(self, batch: EpisodeBatch) -> list[EpisodeBatch]:
        """A meta-batch in the parts that are computed one after the other."""
        tasks = self.tasks_at_once or len(batch.index)
        if self.tasks_at_once is None and batch.index.device.type == "cpu":
            of_one = batch.support_x.shape[1:].numel() + batch.query_x.shape[1:].numel()
            tasks = max(1, VALUES_AT_ONCE // of_one)
        return batch.chunks(tasks)

    def _without_synchronisation(self) -> AbstractContextManager:
        """Processes do not average their gradients in here: they do it once, with the last chunk's."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _meta_batch_size(self, batch: EpisodeBatch) -> int:
        """Tasks in this outer update over all processes."""
        data = getattr(self.trainer, "datamodule", None)
        return data.batch_size if data is not None else len(batch.index) * self.trainer.world_size

    def _stop_unless_finite(self, batch: EpisodeBatch, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        """Raise TrainingDiverged, in all processes alike, before a bad gradient reaches the weights."""
        values = torch.cat([loss, *(p.grad.flatten() for p in parameters if p.grad is not None)])
        finite = math.isfinite(values.abs().max())
        if self.trainer.strategy.reduce_boolean_decision(finite):
            return
        bad = batch.index[~torch.isfinite(loss)].tolist()
        what = "loss" if any(bad_here := _gather(bad)) else "gradient"
        tasks = sorted(itertools.chain(*(bad_here if what == "loss" else _gather(batch.index.tolist()))))
        checkpoints: Any = self.trainer.checkpoint_callbacks
        last = checkpoints[-1].best_model_path if checkpoints else ""
        raise TrainingDiverged(
            f"The {what} of update {self.global_step + 1} is not finite (training tasks {', '.join(map(str, tasks))}); "
            + (f"the last good checkpoint is {last}." if last else "no checkpoint had been written yet.")
        )

    def _log_gradients(self) -> None:
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        if self.track_grad_norm is not None:
            norm = torch.nn.utils.get_total_norm(list(gradients.values()), norm_type=self.track_grad_norm)
            self.log("grad_norm", norm)
        if not self.log_gradient_histograms:
            return
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, gradient in gradients.items():
                    logger.experiment.add_histogram(f"gradients/{name}", gradient.float(), self.global_step)
            elif isinstance(logger, WandbLogger):
                import wandb

                values = {f"gradients/{name}": wandb.Histogram(g.flatten().tolist()) for name, g in gradients.items()}
                logger.experiment.log(values | {"trainer/global_step": self.global_step})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config

    # Evaluation.

    def validation_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        # Step 0 is scored too: it is the yardstick of divergence.
        self._evaluate(batch, sorted({0, self.test_inner_loop_steps}))

    def test_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        self._evaluate(batch, list(range(self.test_inner_loop_steps + 1)))

    @torch.no_grad()
    def step_scores(self, batch: EpisodeBatch, steps: list[int]) -> list[TaskScores]:
        """Each task's query result after the given numbers of inner steps, without a graph.

        An ensemble's is that of the mean of its members' predictions, each of which adapts on its own (Antoniou et al.
        2019, section 5). Of classes, the mean is of the logits, as in the authors' code, not of probabilities.
        """
        if not self.members:
            return [self.scores(predictions, batch.query_y) for predictions in self.step_predictions(batch, steps)]
        each = []
        for weights in self.members:
            self.load_state_dict(weights)
            each.append(self.step_predictions(batch, steps))
        return [self.scores(torch.stack(of_a_step).mean(0), batch.query_y) for of_a_step in zip(*each, strict=True)]

    def _evaluate(self, batch: EpisodeBatch, steps: list[int]) -> None:
        scores = self.step_scores(batch, steps)
        loss, metric = (torch.stack([getattr(s, name) for s in scores], dim=1) for name in ("loss", "metric"))
        self._batches.append((batch.index, steps, loss, metric))

    def on_validation_epoch_end(self) -> None:
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("ensemble" if self.members else "test")

    def _finish_evaluation(self, split: str) -> None:
        here = [
            EpisodeResults(index.cpu().numpy(), steps, loss.double().cpu().numpy(), metric.double().cpu().numpy())
            for index, steps, loss, metric in self._batches
        ]
        self._batches.clear()
        self.results = EpisodeResults.concatenate(list(itertools.chain(*_gather(here))))
        for name, (mean, ci95) in {
            "loss": self.results.mean_loss(),
            self.metric: self.results.mean_metric(self.metric),
        }.items():
            self.log(f"{split}_{name}", float("nan") if mean is None else mean, prog_bar=True, rank_zero_only=False)
            if ci95 is not None:
                self.log(f"{split}_{name}_ci95", ci95)


def _gather(value: Any) -> list:
    """Every process's value, in the order of ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _loss_by_name(name: str, of_classes: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Find a loss and try it on a few predictions."""
    module, _, attribute = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module) if module else F, attribute, None)
    except ImportError:
        function = None
    if not callable(function):
        raise BadInput(
            f"--loss={name} is neither a function of torch.nn.functional nor one that can be imported, "
            "such as mypackage.losses.my_loss."
        )
    predictions = torch.linspace(-0.9, 0.8, 10).reshape(*((2, 5) if of_classes else (10, 1))).requires_grad_()
    targets = torch.tensor([1, 4]) if of_classes else torch.linspace(-2, 2, 10)[:, None]
    try:
        loss = function(predictions, targets)
        usable = loss.dim() == 0 and bool(torch.autograd.grad(loss, predictions)[0].any())
    except Exception:
        usable = False
    if not usable:
        wanted = "class labels" if of_classes else "numbers"
        raise BadInput(
            f"--loss={name} gives no mean loss, with a gradient, of predictions and targets that are {wanted}."
        )
    return function
