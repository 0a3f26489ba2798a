"""An ensemble of a learner's checkpoints (Antoniou et al. 2019, section 5)."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from few_shot.episodes import EpisodeBatch, as_episodes, number_type
from few_shot.evaluation import EpisodeResults
from few_shot.lit_models.base import LitMetaLearner
from few_shot.lit_models.episode_collector import EpisodeCollector, log_results, without_graph
from few_shot.lit_models.task_scores import TaskScores, scores_by_ways


class LitEnsemble(pl.LightningModule):
    """Members that adapt to a task each on its own, and predict the mean of their predictions. For ``trainer.test``.

    Of classes, the mean is of the logits, as in the authors' code, not of probabilities.

    Args:
        lit_model: the learner. It stays as it is: the members are copies of it.
        members: each member's weights, a state dict of the learner.
    """

    def __init__(self, lit_model: LitMetaLearner, members: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(lit_model) for _ in members)
        for member, weights in zip(self.members, members, strict=True):
            member.load_state_dict(weights)
        self._collector = EpisodeCollector()
        self._results: EpisodeResults | None = None

    @property
    def results(self) -> EpisodeResults | None:
        """Every episode's result in the last test, over all processes."""
        return self._results

    def step_scores(self, batch: EpisodeBatch, steps: list[int]) -> list[TaskScores]:
        """Each task's query result after the given numbers of inner steps, without a graph."""
        learners: Any = self.members

        def score(tasks: EpisodeBatch) -> list[TaskScores]:
            each = zip(*(learner.test_predictions(tasks, steps) for learner in learners), strict=True)
            means = [torch.stack(of_a_step).mean(0) for of_a_step in each]
            return [learners[0].scores(predictions, tasks.query_y) for predictions in means]

        with without_graph(batch) as batch:
            return scores_by_ways(batch, learners[0].ways_of_each(batch), score)

    def on_test_epoch_start(self) -> None:
        self._collector = EpisodeCollector()

    def test_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        first: Any = self.members[0]
        batch = as_episodes(batch, number_type(first), first.is_of_classes)
        steps, metric = list(range(first.test_inner_loop_steps + 1)), first.objective.metric(batch.query_y)
        self._collector.add(batch.index, steps, self.step_scores(batch, steps), metric.name)

    def on_test_epoch_end(self) -> None:
        self._results = self._collector.results(self.trainer.world_size)
        log_results(self, "ensemble", self._results, self._collector.metric_name)
