"""Reptile (Nichol, Achiam & Schulman 2018, https://arxiv.org/abs/1803.02999)."""

from typing import ClassVar

import torch

from few_shot.adaptation import last, with_gradients
from few_shot.episodes import EpisodeBatch
from few_shot.lit_models.base import TaskScores
from few_shot.lit_models.lit_maml import LitMAML


class LitReptile(LitMAML):
    """The outer loop moves the weights towards the tasks' fast weights: algorithm 2, batched.

    The outer gradient is the mean of θ - θ_i, whatever the way from θ to θ_i. With ``outer_optimizer=sgd`` the outer
    rate is thus the paper's ε, the share of the way that is gone, and at most 1; Adam works too, as the paper says.

    Reptile makes no difference between support and query samples: in training, each inner step is taken on all
    samples of a task (the paper draws a mini-batch of them).
    """

    unused: ClassVar = {
        **dict.fromkeys(
            ("first_order", "checkpoint_inner_loop"),
            "its outer gradient is the way from the initial to the fast weights",
        ),
        "adapt_norm": "what its inner loop does not adapt, its outer loop would not train",
    }

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        """The fast weights' loss on the samples they adapted to, with the gradient θ - θ_i."""
        x, y = batch.all_samples()
        with torch.no_grad():
            fast_weights = last(self.adapt(x, y, self.inner_loop_steps))
            loss, metric = self.scores(self.predictions_of(x)(fast_weights), y)
            weights = self.adapted_weights()
            way_back = {name: w - fast_weights[name] for name, w in weights.items()}
        return TaskScores(with_gradients(loss, weights, way_back), metric)
