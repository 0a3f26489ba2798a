"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017, https://arxiv.org/abs/1703.03400)."""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from few_shot.adaptation import inner_loop, predict_apart, predictor, stack
from few_shot.episodes import EpisodeBatch
from few_shot.errors import above_zero, at_least
from few_shot.inner_optimizers import INNER_OPTIMIZERS, Rates, Weights
from few_shot.lit_models.base import LitMetaLearner, TaskScores


class LitMAML(LitMetaLearner):
    """MAML, second order unless told otherwise: algorithm 2 of the paper.

    Args:
        inner_lr: learning rate of the inner loop, α.
        inner_loop_steps: inner steps in training, 1 or more.
        first_order: whether inner gradients count as constants in the outer gradient (FOMAML).
        inner_optimizer: the rule of an inner step; momentum is 0.9, and adam is made safe to differentiate through.
    """

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.01,
        inner_loop_steps: int = 5,
        first_order: bool = False,
        inner_optimizer: Literal["sgd", "momentum", "adam"] = "sgd",
        **outer,
    ) -> None:
        super().__init__(model, **outer)
        above_zero("inner_lr", inner_lr)
        self.inner_lr = inner_lr
        self.inner_loop_steps = at_least(1, inner_loop_steps, "inner_loop_steps")
        self.first_order = first_order
        self.inner_optimizer = INNER_OPTIMIZERS[inner_optimizer]

    def predict(self, fast_weights: Weights, x: Tensor) -> Tensor:
        """Predictions ``[T, n, out]`` of T tasks' models for ``x`` ``[T, n, ...]``."""
        return predictor(self.model)(fast_weights, x)

    def adapted_weights(self) -> Weights:
        """The parameters that the inner loop adapts: here all that are trained."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def inner_rates(self, step: int) -> Rates:
        """Each adapted parameter's inner learning rate at a step: here one constant."""
        return dict.fromkeys(self.adapted_weights(), self.inner_lr)

    def adapt(self, batch: EpisodeBatch, steps: int) -> Iterator[Weights]:
        """Yield the tasks' fast weights before the first inner step and after each."""
        return inner_loop(
            self.predict,
            self.loss,
            stack(self.adapted_weights(), len(batch.index)),
            batch.support_x,
            batch.support_y,
            steps=steps,
            optimizer=self.inner_optimizer,
            rates=self.inner_rates,
            first_order=self.first_order,
        )

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        *_, fast_weights = self.adapt(batch, self.inner_loop_steps)
        return self.scores(self.predict(fast_weights, batch.query_x), batch.query_y)

    def step_predictions(self, batch: EpisodeBatch, steps: list[int]) -> list[Tensor]:
        found = []
        for step, fast_weights in enumerate(self.adapt(batch, max(steps))):
            if step in steps:
                if self.transductive:
                    found.append(self.predict(fast_weights, batch.query_x))
                else:
                    found.append(predict_apart(self.predict, fast_weights, batch.support_x, batch.query_x))
        return found
