"""Prototypical networks (Snell, Swersky & Zemel 2017, https://arxiv.org/abs/1703.05175)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot.adaptation import head_name, predict_apart, predictor
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.inner_optimizers import Weights
from few_shot.lit_models.base import LitMetaLearner, TaskScores
from few_shot.metrics import METRICS


class LitProtoNet(LitMetaLearner):
    """A query sample is of the class whose prototype, the mean of its support samples' embeddings, is nearest.

    Nearness is squared Euclidean distance (algorithm 1). The embedding is the model without its head, which is taken
    off. There is no inner loop: the result at step 0 is the result. The paper trains with more classes than it tests:
    ``train_episode_classes``.

    Raises:
        BadInput: the task is not classification.
    """

    fixed_ways = False
    unused: ClassVar = {"test_inner_loop_steps": "it has no inner loop"}

    def __init__(self, model: nn.Module, **outer) -> None:
        super().__init__(model, test_inner_loop_steps=0, **outer)
        self._refuse_numbers()
        self.model.set_submodule(head_name(self.model), nn.Identity())

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._refuse_numbers()

    def _refuse_numbers(self) -> None:
        if self.metric is not None and not METRICS[self.metric].of_classes:
            raise BadInput("LitProtoNet needs classes, and this data set has none.")

    def embed(self, weights: Weights, x: Tensor) -> Tensor:
        """The embeddings of ``x`` ``[T, n, ...]``, ``[T, n, features]``."""
        return predictor(self.model)(weights, x)

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        return self.scores(self.logits(batch, transductive=True), batch.query_y)

    def step_predictions(self, batch: EpisodeBatch, steps: list[int]) -> list[Tensor]:
        return [self.logits(batch, self.transductive)] * len(steps)

    def logits(self, batch: EpisodeBatch, transductive: bool) -> Tensor:
        """Minus the squared distance of each query sample to each prototype, ``[T, N*Q, N]``."""
        shots = batch.support_x.shape[1]
        if transductive:
            embedded = self.embed({}, torch.cat([batch.support_x, batch.query_x], dim=1))
            support, query = embedded[:, :shots], embedded[:, shots:]
        else:
            support = self.embed({}, batch.support_x)
            query = predict_apart(self.embed, {}, batch.support_x, batch.query_x)
        dtype = next(self.model.parameters()).dtype
        support, query = support.to(dtype), query.to(dtype)  # distances are exact, autocast or not
        member = F.one_hot(batch.support_y).to(dtype)  # [T, N*K, N]
        prototypes = member.mT @ support / member.sum(1)[..., None]  # [T, N, features]
        return -(query[:, :, None] - prototypes[:, None]).square().sum(-1)
