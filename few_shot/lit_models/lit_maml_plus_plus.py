"""MAML++ (Antoniou, Edwards & Storkey 2019, "How to train your MAML", https://arxiv.org/abs/1810.09502)."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from few_shot.adaptation import outputs_of, over_tasks
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput, at_least
from few_shot.inner_optimizers import Rates, Weights
from few_shot.lit_models.base import OuterSchedule, TaskScores
from few_shot.lit_models.lit_maml import LitMAML
from few_shot.lit_models.per_step_batch_norm import PerStepBatchNorm
from few_shot.models.norm import replace_norm
from few_shot.private_parts import BatchNorm

#: What the loss after each step but the last weighs at least, times the number of steps (the authors' code).
LEAST_IMPORTANCE = 0.03


class LitMAMLPlusPlus(LitMAML):
    """MAML with the six changes of the paper's section 4, each a switch; with all of them off, exactly MAML.

    Running statistics that are kept per step are used in evaluation, as the paper has it, so no query sample sees
    another there and ``transductive`` is off. (The authors' code keeps them, but normalises by the batch throughout;
    for its numbers, turn ``per_step_bn_statistics`` off.)

    Args:
        multi_step_loss_updates: outer updates over which the query losses after the earlier inner steps fade from
            equal weight to nearly none, before the last one alone counts (MSL); 0 for the last one alone at once.
        learned_rates: whether the inner learning rate of every parameter tensor and step is learned (LSLR); they
            start at inner_lr, and steps beyond those of training use the last one's.
        per_step_bn_statistics: whether batch norm keeps running statistics for each inner step, and uses them in
            evaluation (BNRS).
        per_step_bn_weights: whether batch norm's scale and shift are learned for each inner step by the outer loop
            (BNWB), instead of being adapted by the inner loop.
        first_order_updates: outer updates at the beginning that are first order (DA); the authors' configuration for
            mini-ImageNet has eleven epochs of 500.
        outer_schedule: keep the outer rate, let it fall to zero along a cosine over the training (CA), or halve it.
        transductive: as in MAML; None is true, but false where running statistics are kept, which true excludes.
    """

    step_weights: Tensor

    def __init__(
        self,
        model: nn.Module,
        multi_step_loss_updates: int = 5000,
        learned_rates: bool = True,
        per_step_bn_statistics: bool = True,
        per_step_bn_weights: bool = True,
        first_order_updates: int = 0,
        outer_schedule: OuterSchedule = "cosine",
        transductive: bool | None = None,
        **maml,
    ) -> None:
        super().__init__(model, outer_schedule=outer_schedule, transductive=transductive is not False, **maml)
        if per_step_bn_statistics and any(isinstance(module, BatchNorm) for module in model.modules()):
            if transductive:
                raise BadInput(
                    "transductive=true and per_step_bn_statistics=true exclude each other: with running statistics, "
                    "no query sample sees another."
                )
            self.transductive = False
        self.multi_step_loss_updates = at_least(0, multi_step_loss_updates, "multi_step_loss_updates")
        self.first_order_updates = at_least(0, first_order_updates, "first_order_updates")
        self.always_first_order = self.first_order
        self.norms: list[PerStepBatchNorm] = []
        if per_step_bn_statistics or per_step_bn_weights:
            for name, norm in list(self.model.named_modules()):
                if isinstance(norm, BatchNorm):
                    per_step = PerStepBatchNorm(
                        norm, self.inner_loop_steps, per_step_bn_statistics, per_step_bn_weights
                    )
                    replace_norm(self.model, name, per_step)
                    self.norms.append(per_step)
                    self.model.__dict__["changed_by"] = type(self).__name__
        self.rates: nn.ParameterList | None = None
        if learned_rates:
            adapted = self.adapted_weights().values()
            self.rates = nn.ParameterList(
                nn.Parameter(p.new_full((self.inner_loop_steps,), self.inner_lr)) for p in adapted
            )
        self.register_buffer("step_weights", torch.zeros(self.inner_loop_steps), persistent=False)
        self.anneal(0)

    def adapted_weights(self) -> Weights:
        """All parameters that MAML adapts but batch norm's per-step ones."""
        norms = [norm for norm in self.norms if norm.per_step_weights or not self.adapt_norm]
        fixed = {id(p) for norm in norms for p in norm.parameters()}
        return {name: p for name, p in super().adapted_weights().items() if id(p) not in fixed}

    def inner_rates(self, step: int) -> Rates:
        """Each parameter tensor's learned rate at a step, or one constant."""
        if self.rates is None:
            return super().inner_rates(step)
        step = min(step, self.inner_loop_steps - 1)
        return self.named_rates([rate[step] for rate in self.rates])

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int) -> Iterator[Weights]:
        """Yield the tasks' fast weights before the first inner step and after each.

        Batch norm is at the step that led to them, for the query samples; then at the step that comes next.
        """
        for step, fast_weights in enumerate(super().adapt(support_x, support_y, steps)):
            self._at_step(max(step - 1, 0))
            yield fast_weights
            self._at_step(step)

    def adapted_model(
        self, support_x: Tensor, support_y: Tensor, steps: int, classes: int | None = None, transductive: bool = False
    ) -> nn.Module:
        try:
            return super().adapted_model(support_x, support_y, steps, classes, transductive)
        finally:
            self._at_step(0)

    @contextmanager
    def step_again(self, step: int) -> Iterator[None]:
        """Batch norm is at the step once more; its statistics are collected already."""
        before = [(norm, norm.step, norm.collected.clone() if norm.statistics else None) for norm in self.norms]
        self._at_step(step)
        try:
            yield
        finally:
            for norm, its_step, collected in before:
                norm.step = its_step
                if collected is not None:
                    norm.collected.copy_(collected)

    def _at_step(self, step: int) -> None:
        for norm in self.norms:
            norm.step = step

    def forward(self, x: Tensor) -> Tensor:
        """The model's predictions for ``x`` with the initial weights, and batch norm at step 0."""
        self._at_step(0)
        return super().forward(x)

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        if self.last_step_alone:
            return super().outer_scores(batch)
        adapted = itertools.islice(self.adapt(batch.support_x, batch.support_y, self.inner_loop_steps), 1, None)
        predictions = self.predictions_of(batch.query_x)
        scores = [self.scores(predictions(fast_weights), batch.query_y) for fast_weights in adapted]
        losses = torch.stack([s.loss for s in scores])
        loss = torch.einsum("s,st->t", self.step_weights.to(losses), losses)
        return TaskScores(loss, scores[-1].metric)

    def on_train_batch_start(self, batch: EpisodeBatch, batch_idx: int) -> None:
        self.anneal(self.global_step + self.updates_before)
        self.forget_update()  # one that failed may have left something

    def forget_update(self) -> None:
        """Drop the batch statistics that were collected."""
        for norm in self.norms:
            norm.forget()

    def anneal(self, update: int) -> None:
        """Set what changes in training for an outer update: the weights of the steps' losses, the gradient's order."""
        steps, over = self.inner_loop_steps, self.multi_step_loss_updates
        self.last_step_alone = update >= over
        earlier = 0.0 if self.last_step_alone else max(1 - update / over, LEAST_IMPORTANCE) / steps
        self.step_weights[:-1] = earlier
        self.step_weights[-1] = 1 - earlier * (steps - 1)
        self.first_order = self.always_first_order or update < self.first_order_updates

    def predictions_of(self, x: Tensor) -> Callable[[Weights], Tensor]:
        """Predictions of T tasks for ``x``; in training, batch norm's statistics are collected on the way."""
        if not (self.training and any(norm.statistics for norm in self.norms)):
            return super().predictions_of(x)

        used: list[PerStepBatchNorm] = []

        def predict_one_task(weights: Weights, x: Tensor) -> tuple[Tensor, list[Any]]:
            for norm in self.norms:
                norm.uses = 0
            predictions = outputs_of(self.model, weights, x)
            used[:] = [norm for norm in self.norms if norm.uses]
            if any(norm.uses > 1 for norm in used):
                raise BadInput(
                    f"{type(self.model).__name__} uses a batch norm more than once, and has one set of running "
                    "statistics for it: give each use a layer of its own, or set per_step_bn_statistics=false."
                )
            return predictions, [norm.batch_statistics for norm in used]

        predict = over_tasks(self.model, predict_one_task)

        def predictions(fast_weights: Weights) -> Tensor:
            found, statistics = predict(fast_weights, x)
            for norm, (mean, var) in zip(used, statistics, strict=True):
                norm.batch_statistics = None
                norm.collect(mean, var)
            return found

        return predictions

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """One outer update; what a callback saves after it has the running statistics that go with the weights."""
        super().training_step(batch, batch_idx)
        self.update_statistics(self.trainer.world_size)

    def update_statistics(self, processes: int) -> None:
        """Update the running statistics from the tasks of all processes, so many."""
        for norm in self.norms:
            if norm.statistics:
                if processes > 1:
                    torch.distributed.all_reduce(norm.collected)
                norm.update()
