"""Prototypical networks (Snell, Swersky & Zemel 2017, https://arxiv.org/abs/1703.05175)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from few_shot.adaptation import predict_apart, predictor
from few_shot.episodes import EpisodeBatch
from few_shot.evaluating import usable
from few_shot.lit_models.adapted_model import NearestPrototype, copied
from few_shot.lit_models.fixed_norm import fix_norms
from few_shot.lit_models.task_scores import TaskScores, scores_by_ways
from few_shot.lit_models.without_head import LitWithoutHead, prototypes_of


class LitProtoNet(LitWithoutHead):
    """A query sample is of the class whose prototype, the mean of its support samples' embeddings, is nearest.

    Nearness is squared Euclidean distance (algorithm 1). The embedding is the model without its head. There is no
    inner loop: the result at step 0 is the result. The paper trains with more classes than it tests:
    ``train_episode_classes``.
    """

    unused: ClassVar = {"test_inner_loop_steps": "it has no inner loop"}

    def __init__(self, model: nn.Module, **outer) -> None:
        super().__init__(model, test_inner_loop_steps=0, **outer)

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        def score(tasks: EpisodeBatch) -> list[TaskScores]:
            return [self.scores(self.logits(tasks, transductive=True), tasks.query_y)]

        return scores_by_ways(batch, self.ways_of_each(batch), score)[0]

    def step_predictions(self, batch: EpisodeBatch, steps: list[int]) -> list[Tensor]:
        return [self.logits(batch, self.transductive)] * len(steps)

    def adapted_model(
        self, support_x: Tensor, support_y: Tensor, steps: int, classes: int | None = None, transductive: bool = False
    ) -> nn.Module:
        """Embedding and prototypes; there are no inner steps, and any number of classes."""
        embed = copied(self.model).requires_grad_(False).eval()
        with torch.inference_mode(False), torch.no_grad():
            support_x, support_y = usable(support_x), usable(support_y)
            classes = int(support_y.max()) + 1 if classes is None else classes
            if transductive:
                return NearestPrototypeTogether(embed, support_x.clone(), support_y.clone(), classes)
            prototypes = prototypes_of(embed(support_x)[None], support_y[None], classes)[0]
        fix_norms(embed, support_x)
        return NearestPrototype(embed, prototypes)

    def logits(self, batch: EpisodeBatch, transductive: bool, classes: int | None = None) -> Tensor:
        """Minus the squared distance of each query sample to each prototype, ``[T, N*Q, N]``.

        Args:
            batch: the tasks.
            transductive: whether batch norm sees support and query samples together.
            classes: N; None for as many as there are. Those without support samples have NaN.
        """
        shots = batch.support_x.shape[1]
        if transductive:
            embedded = self.embed(torch.cat([batch.support_x, batch.query_x], dim=1))
            support, query = embedded[:, :shots], embedded[:, shots:]
        else:
            support = self.embed(batch.support_x)
            query = predict_apart(predictor(self.model), {}, batch.support_x, batch.query_x).to(support.dtype)
        classes = self.ways(batch.support_y) if classes is None else classes
        prototypes = prototypes_of(support, batch.support_y, classes)
        return -(query[:, :, None] - prototypes[:, None]).square().sum(-1)


class NearestPrototypeTogether(nn.Module):
    """Logits ``[n, N]`` where batch norm sees samples and support set together, as in the paper's test episodes.

    Args:
        embed: the network, inputs ``[n, ...]`` to features ``[n, f]``.
        support_x: the support set's inputs, ``[K, ...]``.
        support_y: their labels, ``[K]``.
        classes: N.
    """

    support_x: Tensor
    support_y: Tensor

    def __init__(self, embed: nn.Module, support_x: Tensor, support_y: Tensor, classes: int) -> None:
        super().__init__()
        self.embed, self.classes = embed, classes
        self.register_buffer("support_x", support_x)
        self.register_buffer("support_y", support_y)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(torch.cat([self.support_x, x]))
        support, query = embedded[: len(self.support_x)], embedded[len(self.support_x) :]
        prototypes = prototypes_of(support[None], self.support_y[None], self.classes)[0]
        return -(query[:, None] - prototypes).square().sum(-1)
