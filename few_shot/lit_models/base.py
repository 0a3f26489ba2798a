"""What every algorithm shares: the outer update, and what an algorithm answers."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.compile import to_uncompiled
from torch import Tensor, nn

from few_shot.arguments import RemembersArguments
from few_shot.checkpoint import describe, describe_data, load_learner
from few_shot.episodes import EpisodeBatch, as_episodes, number_type
from few_shot.errors import BadInput, TrainingDiverged, above_zero, at_least
from few_shot.evaluation import EpisodeResults
from few_shot.fast_path.folded import FastPath, Layer
from few_shot.lit_models.compiled_step import CompiledStep
from few_shot.lit_models.divergence import what_diverged
from few_shot.lit_models.episode_collector import EpisodeCollector, log_results, without_graph
from few_shot.lit_models.model_check import check_model
from few_shot.lit_models.objective import Objective, loss_name
from few_shot.lit_models.outer_gradient import add_up_gradient
from few_shot.lit_models.processes import equal_buffers, have_the_same_tasks
from few_shot.lit_models.task_scores import TaskScores, scores_by_ways
from few_shot.lit_models.trainer_settings import check_end, check_trainer, step_schedulers
from few_shot.metrics import METRICS
from few_shot.private_parts import data_module, expect_unused_parameters, is_compiled, keep_buffers_apart

OuterSchedule = Literal["constant", "cosine", "halving"]


class LitMetaLearner(RemembersArguments, pl.LightningModule):
    """The outer update of a meta-learning algorithm, for any Lightning Trainer.

    An algorithm implements :meth:`outer_scores` (each task's loss) and :meth:`step_predictions`. It may also say how
    the losses of a meta-batch combine (:meth:`combine`).

    An algorithm that has no head sized to the episode sets ``fixed_ways`` to False: it may train wider than it tests.

    Args:
        model: the backbone. Its batch norm is made to use the statistics of the batch in front of it.
        loss: a function of torch.nn.functional by name, or any function by its dotted name; it maps one task's
            predictions and targets to their mean loss. None takes the data module's loss. Without one it is cross
            entropy for class labels, and the mean squared error for numbers.
        metric: what is reported beside the loss. None takes the data module's. Without one it is accuracy for class
            labels, and the mean squared error for numbers.
        test_inner_loop_steps: inner steps in validation and test, 0 or more.
        transductive: whether batch norm in evaluation sees the query samples of an episode together, as the papers
            do; off, it takes the support set's statistics.
        outer_optimizer: the optimiser of the outer loop.
        outer_lr: learning rate of the outer loop.
        outer_schedule: keep the outer rate, let it fall to zero along a cosine over the training, or halve it after
            each tenth of the training.
        tasks_at_once: tasks whose graphs are in memory at the same time in training. None is all of them; on the CPU,
            as many as have 5 million input values, because larger chunks take much more memory and hardly less time.
        fast_path: whether a model that is a chain of common layers computes its tasks folded into channels; any other
            model, or off, is vectorised by vmap, to the same result.
        weight_decay: L2 penalty on the model's weights in the outer optimiser (decoupled in adamw).
        gradient_clip_val: bound on the outer gradient; None for no bound.
        gradient_clip_algorithm: bound the gradient's norm, or each of its elements (value).
        max_skipped_updates: updates in a row that are skipped with a warning because their loss or gradient is not
            finite; one more stops the training. A skipped update leaves the weights and the optimiser as they are.

    Raises:
        BadInput: a number is out of its range, the loss or the metric is unknown, the model holds a layer twice, or
            it belongs to another learner, which has changed its layers.
    """

    fixed_ways = True
    updates_before = 0  # outer updates of earlier trainings
    episodes_before = 0  # their tasks, which are not to come again
    _skipped_in_a_row = 0  # outer updates
    _compared = True  # whether the tasks of all processes have been compared

    def __init__(
        self,
        model: nn.Module,
        loss: str | None = None,
        metric: Literal["accuracy", "mse"] | None = None,
        test_inner_loop_steps: int = 10,
        transductive: bool = True,
        outer_optimizer: Literal["adam", "adamw", "sgd"] = "adam",
        outer_lr: float = 1e-3,
        outer_schedule: OuterSchedule = "constant",
        tasks_at_once: int | None = None,
        fast_path: bool = True,
        weight_decay: float = 0.0,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        max_skipped_updates: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        above_zero("outer_lr", outer_lr)
        if gradient_clip_val is not None:
            above_zero("gradient_clip_val", gradient_clip_val)
        above_zero("weight_decay", weight_decay, or_zero=True)
        check_model(model)
        self.model = torch.func.replace_all_batch_norm_modules_(model)
        self.given = {"loss": loss_name(loss), "metric": metric}
        self.objective = Objective(**self.given)
        self.test_inner_loop_steps = at_least(0, test_inner_loop_steps, "test_inner_loop_steps")
        self.transductive = transductive
        self.outer_optimizer = outer_optimizer
        self.outer_lr = outer_lr
        self.outer_schedule = outer_schedule
        self.tasks_at_once = None if tasks_at_once is None else at_least(1, tasks_at_once, "tasks_at_once")
        self.fast_path = fast_path
        self.weight_decay = weight_decay
        self.gradient_clip_val = gradient_clip_val
        self.gradient_clip_algorithm = gradient_clip_algorithm
        self.max_skipped_updates = at_least(0, max_skipped_updates, "max_skipped_updates")
        self._fast_path: FastPath | None = None
        self._compiled: CompiledStep | None = None
        self._collector = EpisodeCollector()
        self._results: EpisodeResults | None = None
        self._data_facts: dict[str, Any] | None = None
        self.shots: int | None = None  # of every class in the Trainer's tasks; None where it is not known

    def __getstate__(self) -> dict[str, Any]:
        """A copy finds the fast path again, and is not compiled: both are made of functions of the original."""
        state = super().__getstate__()
        return {**state, "_fast_path": None, "_compiled": None}

    # What an algorithm answers.

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        """Each training task's loss ``[T]``, with its graph, and its metric."""
        raise NotImplementedError

    def combine(self, losses: Tensor) -> Tensor:
        """The loss of a meta-batch from those of its tasks, ``[B]`` to ``[]``: here their mean.

        The losses are those of the whole meta-batch, however many tasks are computed at once and in however many
        processes.
        """
        return losses.mean()

    def step_predictions(self, batch: EpisodeBatch, steps: list[int]) -> list[Tensor]:
        """Query predictions ``[T, N*Q, out]`` after the given numbers of inner steps; called without a graph."""
        raise NotImplementedError

    def test_predictions(self, batch: EpisodeBatch, steps: list[int]) -> list[Tensor]:
        """:meth:`step_predictions` with outputs for the tasks' classes alone, as an :meth:`adapted_model` has them."""
        return self.step_predictions(batch, steps)

    def adapted_model(
        self, support_x: Tensor, support_y: Tensor, steps: int, classes: int | None = None, transductive: bool = False
    ) -> nn.Module:
        """The network after adaptation to one task, as a plain module; the learner stays as it is.

        Args:
            support_x: the task's inputs, ``[n, ...]``.
            support_y: their targets, ``[n]`` for class labels or ``[n, 1]`` for numbers.
            steps: inner steps, 0 or more.
            classes: how many classes there are; None for as many as the model has outputs.
            transductive: whether batch norm looks at all samples that are predicted together; otherwise it keeps the
                support set's statistics, so that no prediction depends on another.

        Raises:
            BadInput: there are more classes than the model has outputs.
        """
        raise NotImplementedError

    def reason_not_to_compile(self, batch: EpisodeBatch) -> str | None:
        """Why a batch's step should not be compiled although asked for; None where it should."""
        if batch.support_x.device.type == "cpu" and self.folds_convolutions:
            return "on the CPU the fast path of a convolutional network is faster than compiled code"
        return None if self.combines_by_mean else "compiled code knows the gradient of the mean loss alone"

    # What it is asked.

    @property
    def metric(self) -> str | None:
        """The metric's name; None until it is known, if the targets of the first batch are to say."""
        return self.objective.metric_name

    @property
    def is_of_classes(self) -> bool | None:
        """Whether the tasks have classes; None until it is known."""
        return None if self.metric is None else METRICS[self.metric].of_classes

    def known_ways(self, support_y: Tensor) -> int | None:
        """The number of classes in each task, n labels ``[T, n]`` over the data's shots; None where it is not known.

        The Trainer's data module knows the shots. So a GPU need not wait until labels are read.
        """
        samples = support_y.shape[1]
        return samples // self.shots if self.shots is not None and samples % self.shots == 0 else None

    def ways_of_each(self, batch: EpisodeBatch) -> Tensor | None:
        """Each task's number of classes, ``[T]``; None where the tasks have none, or the data says that all agree."""
        if not self.objective.metric(batch.query_y).of_classes or self.known_ways(batch.support_y) is not None:
            return None
        return 1 + torch.cat([batch.support_y, batch.query_y], dim=1).flatten(1).amax(1)

    def steps_or_own(self, steps: int | None) -> int:
        """The inner steps that are asked for; None is test_inner_loop_steps.

        Raises:
            BadInput: the number is negative, or the algorithm has no inner steps.
        """
        if steps is None:
            return self.test_inner_loop_steps
        if at_least(0, steps, "steps") > 0 and "test_inner_loop_steps" in self.unused:
            raise BadInput(f"steps={steps} is of no use: {type(self).__name__} has no inner steps.")
        return steps

    @property
    def results(self) -> EpisodeResults | None:
        """Every episode's result in the last validation or test, over all processes."""
        return self._results

    @property
    def metric_of_results(self) -> str | None:
        """The name of the metric in :attr:`results`."""
        return None if self._results is None else self._collector.metric_name

    @property
    def data_facts(self) -> dict[str, Any] | None:
        """What a checkpoint says of the data of the training: how pictures are prepared, the classes; None before."""
        return self._data_facts

    @property
    def folded_layers(self) -> list[Layer] | None:
        """The model's fast path, if it has one; found again when the model is no longer the same."""
        if not self.fast_path:
            return None
        if torch.compiler.is_compiling():  # compiled code cannot search
            return None if self._fast_path is None else self._fast_path.layers
        if self._fast_path is None or not self._fast_path.is_of(self.model):
            self._fast_path = FastPath(self.model)
        return self._fast_path.layers

    @property
    def folds_convolutions(self) -> bool:
        """Whether the model is convolutional and has a fast path."""
        return self.folded_layers is not None and self.is_convolutional

    @property
    def is_convolutional(self) -> bool:
        """Whether the model has a convolution of images."""
        return any(isinstance(m, nn.Conv2d) for m in self.model.modules())

    @property
    def combines_by_mean(self) -> bool:
        """Whether the loss of a meta-batch is the mean of its tasks' losses."""
        return type(self).combine is LitMetaLearner.combine

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Each task's loss ``[T]``; predictions ``[T, n, out]``, targets ``[T, n]`` or ``[T, n, 1]``."""
        return self.objective.losses(predictions, targets)

    def scores(self, predictions: Tensor, targets: Tensor) -> TaskScores:
        """Each task's loss and metric; predictions ``[T, n, out]``, targets ``[T, n]`` or ``[T, n, 1]``."""
        with torch.no_grad():
            metric = self.objective.metric(targets).scores(predictions, targets)
        return TaskScores(self.loss(predictions, targets), metric)

    def forward(self, x: Tensor) -> Tensor:
        """The model's predictions for ``x`` with the initial weights: before any adaptation."""
        return self.model(x)

    def compile_outer_step(self) -> None:
        """Compile :meth:`outer_scores` and its gradient for training, when they are first called.

        What cannot be compiled runs as it is.
        """
        _ = self.folded_layers  # found now, for the search cannot be compiled
        self._compiled = CompiledStep(self.outer_scores, self.parameters(), self.reason_not_to_compile)

    def training_scores(self, batch: EpisodeBatch) -> TaskScores:
        """:meth:`outer_scores`, by compiled code if that was asked for."""
        return self.outer_scores(batch) if self._compiled is None else self._compiled(batch)

    # The outer loop.

    def configure_callbacks(self) -> list[pl.Callback]:
        """None of its own. Lightning asks for them first of all, so a Trainer that cannot work is refused here."""
        check_trainer(self.trainer)
        if is_compiled(self):
            to_uncompiled(self)  # so that it can be given again as it is
            raise BadInput(
                "torch.compile cannot compile a whole learner: call its compile_outer_step(), and give it to the "
                "Trainer as it is."
            )
        if self.is_convolutional and isinstance(self.trainer.strategy, DDPStrategy):
            expect_unused_parameters(self.trainer.strategy)
        return []

    def setup(self, stage: str) -> None:
        """Take the data module's loss and metric where the constructor left them open.

        They stay as they are without a data module, and in a test of a learner that has some from its training.
        """
        keep_buffers_apart(self)
        self._fast_path = None  # a layer's own settings may have changed since; found again before anything is compiled
        _ = self.folded_layers
        if stage in ("validate", "test"):
            self._results = None
        data = data_module(self.trainer)
        self.shots = getattr(data, "shots_of_every_class", None)
        if data is not None and stage == "fit":
            self.remember_data(data)
        if data is not None and stage == "test" and hasattr(data, "refuse_trained_classes"):
            data.refuse_trained_classes(self.data_facts or {})
        known = {"loss": self.objective.loss_name, "metric": self.objective.metric_name} if stage != "fit" else {}
        loss, metric = (v or known.get(name) or getattr(data, name, None) for name, v in self.given.items())
        if data is not None and (loss, metric) != (self.objective.loss_name, self.objective.metric_name):
            self.objective = Objective(loss, metric)

    def teardown(self, stage: str) -> None:
        self.shots = None

    @contextmanager
    def as_before_if_it_fails(self, trainer: pl.Trainer) -> Iterator[None]:
        """A training that ends before its first update leaves what is known of the data as it was."""
        before, updates = (self._data_facts, self.objective), trainer.global_step
        try:
            yield
        except BaseException:
            if trainer.global_step == updates:
                self._data_facts, self.objective = before
            raise

    def remember_data(self, data: Any) -> None:
        """Take down what a checkpoint is to say of the data of the training; a Trainer does it at the start."""
        before, facts = (self._data_facts or {}).get("classes", {}).get("train"), describe_data(data)
        if before and "classes" in facts:  # it stays trained on the classes of earlier trainings
            facts["classes"]["train"] = sorted({*before, *facts["classes"].get("train", ())})
        self._data_facts = facts

    def on_fit_start(self) -> None:
        """A learner that has predicted or was loaded is in evaluation mode, which Lightning would leave it in."""
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.model.modules()):
            raise BadInput(
                "Trainer(sync_batchnorm=True) cannot work: it would mix each task's statistics with those of another "
                "process's task."
            )
        if not any(p.requires_grad for p in self.parameters()):
            raise BadInput(
                f"{type(self.model).__name__} has no weights to train: keep its layers in attributes or an "
                "nn.ModuleList, and leave some of them unfrozen."
            )
        if isinstance(self.optimizers(), list):
            raise BadInput(f"{type(self).__name__}.configure_optimizers returns several optimisers: return one.")
        if self.trainer.world_size > 1:
            equal_buffers(self)
        self._skipped_in_a_row = 0
        self._compared = self.trainer.world_size == 1
        self.train()

    def on_train_start(self) -> None:
        check_end(self.trainer)

    def configure_optimizers(self) -> Any:
        """The outer optimiser. One from a subclass keeps its own rates, and its schedulers step after each update."""
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        others = [p for name, p in self.named_parameters() if not name.startswith("model.")]  # learned rates
        groups = [{"params": list(self.model.parameters()), "weight_decay": self.weight_decay}]
        groups += [{"params": others, "weight_decay": 0.0}] if others else []
        return kinds[self.outer_optimizer](groups, lr=self.outer_lr, fused=True)

    @cached_property
    def _sets_rates(self) -> bool:
        """Whether the optimiser is the one above, with the outer rate; one from a subclass keeps its own rates."""
        return type(self).configure_optimizers is LitMetaLearner.configure_optimizers

    def outer_rate(self, update: int) -> float:
        """The outer learning rate of an update, counted from 0."""
        if self.outer_schedule == "constant":
            return self.outer_lr
        updates = self.trainer.estimated_stepping_batches
        if not 0 < updates < math.inf:
            raise BadInput(
                f"outer_schedule={self.outer_schedule} must know the last update: give the Trainer max_steps."
            )
        if self.outer_schedule == "halving":
            return self.outer_lr * 0.5 ** int(10 * update / updates)
        return self.outer_lr * (1 + math.cos(math.pi * update / updates)) / 2

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """One outer update from the query losses of the meta-batch's tasks, those of other processes included."""
        optimizer: Any = self.optimizers()
        if self._sets_rates:
            # A resumed run's flags win over its checkpoint.
            optimizer.param_groups[0]["weight_decay"] = self.weight_decay
            for group in optimizer.param_groups:
                group["lr"] = self.outer_rate(self.global_step)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for p in parameters:
            p.grad = None  # zero_grad would open a profiled section for it
        batch = as_episodes(batch, number_type(self), self.is_of_classes)
        if not self._compared:
            self._compare(batch)
        scores, loss, share = add_up_gradient(self, batch)
        diverged = what_diverged(self.global_step + 1, batch.index, scores.loss, parameters, self.trainer)
        if diverged is None:
            self._skipped_in_a_row = 0
        else:
            self._skip_or_stop(diverged, parameters)
        optimizer.step()  # counts a skipped update too; parameters without a gradient are left alone
        if not self._sets_rates:
            step_schedulers(self.lr_schedulers())
        metric = self.objective.metric(batch.query_y)
        self.objective.metric_name = metric.name  # which a checkpoint names, whatever the data
        trainer: Any = self.trainer
        every, done = trainer.log_every_n_steps, self.global_step
        if every and (done % every == 0 or done == trainer.max_steps):  # the last one's row would be an older one's
            self.log("train_loss", loss, prog_bar=True, sync_dist=True)
            if metric.of_classes:  # an error says no more than the loss
                self.log(f"train_{metric.name}", share * scores.metric.sum(), prog_bar=True, sync_dist=True)

    def _compare(self, batch: EpisodeBatch) -> None:
        """Warn where the processes do not share the tasks: a Trainer shares out a data module of few_shot alone."""
        self._compared = True
        if have_the_same_tasks(batch, self.trainer.world_size):
            rank_zero_warn(
                f"All {self.trainer.world_size} processes train on the same tasks, and so do the work of one: give a "
                "data module of few_shot, or each process tasks of its own."
            )

    def _skip_or_stop(self, diverged: TrainingDiverged, parameters: list[nn.Parameter]) -> None:
        """Skip an update: take its gradient away. Raise ``diverged`` if too many in a row were skipped already."""
        if self._skipped_in_a_row >= self.max_skipped_updates:
            raise diverged
        self._skipped_in_a_row += 1
        for p in parameters:
            p.grad = None
        self.forget_update()
        rank_zero_warn(f"{diverged} The update is skipped.")

    def forget_update(self) -> None:
        """Drop what a skipped update has collected beside its gradient: here nothing."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the outer gradient, after callbacks have seen it as it is."""
        if self.gradient_clip_val is not None:
            # Not by Lightning, which under autocast refuses to clip for a fused optimiser.
            norm = self.gradient_clip_algorithm == "norm"
            clip = torch.nn.utils.clip_grad_norm_ if norm else torch.nn.utils.clip_grad_value_
            clip([p for group in optimizer.param_groups for p in group["params"]], self.gradient_clip_val)

    # Evaluation.

    def on_validation_epoch_start(self) -> None:
        self._collector = EpisodeCollector()

    def on_test_epoch_start(self) -> None:
        self._collector = EpisodeCollector()

    def validation_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        # Step 0 is scored too: it is the yardstick of divergence.
        self._evaluate(batch, sorted({0, self.test_inner_loop_steps}))

    def test_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        self._evaluate(batch, list(range(self.test_inner_loop_steps + 1)))

    def predict_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        """The query samples' predictions after adaptation to their tasks' support sets: ``[T, N*Q, N]`` of classes."""
        with without_graph(as_episodes(batch, number_type(self), self.is_of_classes)) as batch:
            return self.test_predictions(batch, [self.test_inner_loop_steps])[0]

    def step_scores(self, batch: EpisodeBatch, steps: list[int]) -> list[TaskScores]:
        """Each task's query result after the given numbers of inner steps, without a graph."""

        def score(tasks: EpisodeBatch) -> list[TaskScores]:
            return [self.scores(predictions, tasks.query_y) for predictions in self.test_predictions(tasks, steps)]

        with without_graph(batch) as batch:
            return scores_by_ways(batch, self.ways_of_each(batch), score)

    def _evaluate(self, batch: EpisodeBatch, steps: list[int]) -> None:
        batch = as_episodes(batch, number_type(self), self.is_of_classes)
        scores = self.step_scores(batch, steps)
        self._collector.add(batch.index, steps, scores, self.objective.metric(batch.query_y).name)

    def on_validation_epoch_end(self) -> None:
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test")

    def _finish_evaluation(self, split: str) -> None:
        self._results = self._collector.results(self.trainer.world_size)
        log_results(self, split, self._results, self._collector.metric_name)

    # Checkpoints.

    def on_save_checkpoint(self, content: dict[str, Any]) -> None:
        """Add all that is needed to build the learner again."""
        content["few_shot"] = describe(self)

    def on_load_checkpoint(self, content: dict[str, Any]) -> None:
        self._data_facts = content.get("few_shot", {}).get("data")

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | None = None,
        *,
        model: nn.Module | None = None,
        **changes: Any,
    ) -> Self:
        """The learner of a checkpoint, with the arguments it was trained with, its model and its weights.

        Args:
            checkpoint_path: the checkpoint. Nothing in it is run as code.
            map_location: the device to put the learner on; None for the CPU.
            model: a model to load the weights into; needed where the model is not one of this package's.
            changes: arguments of the learner that are to differ from those it was trained with.

        Raises:
            BadInput: the file is no checkpoint of this package, holds another class, or does not fit the model.
        """
        return load_learner(checkpoint_path, cls, model, changes).to(map_location or "cpu")
