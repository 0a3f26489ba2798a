"""The results of a validation or a test: collected batch by batch, joined over all processes, logged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from torch import Tensor

from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.evaluating import usable
from few_shot.evaluation import EpisodeResults
from few_shot.lit_models.processes import gather
from few_shot.lit_models.task_scores import TaskScores
from few_shot.metrics import METRICS


class EpisodeCollector:
    """Collects what episodes score after some inner steps, the first of them step 0."""

    def __init__(self) -> None:
        self.metric_name = ""
        self._batches: list[tuple[Tensor, list[int], Tensor, Tensor]] = []

    def add(self, index: Tensor, steps: list[int], scores: Sequence[TaskScores], metric_name: str) -> None:
        """Add T episodes, with their scores at each of the steps."""
        loss, metric = (torch.stack([getattr(s, name) for s in scores], dim=1) for name in ("loss", "metric"))
        self._batches.append((index, steps, loss, metric))
        self.metric_name = metric_name

    def results(self, processes: int) -> EpisodeResults:
        """All episodes of all processes, so many, in the order of their numbers.

        Raises:
            BadInput: there is none.
        """
        here = [
            EpisodeResults(
                index.cpu().numpy(),
                steps,
                loss.double().cpu().numpy(),
                metric.double().cpu().numpy(),
                METRICS[self.metric_name].of_classes,
            )
            for index, steps, loss, metric in self._batches
        ]
        everywhere = [EpisodeResults.concatenate(batches) for batches in gather(here, processes) if batches]
        if not everywhere:
            raise BadInput("The data holds no episode to evaluate.")
        return EpisodeResults.of_processes(everywhere)


def log_results(module: pl.LightningModule, split: str, results: EpisodeResults, metric_name: str) -> None:
    """Log means and intervals after the last inner step: ``val_loss``, ``val_loss_ci95`` and the metric's alike."""
    for name, (mean, ci95) in {
        "loss": results.mean_loss(),
        metric_name: results.mean_metric(metric_name),
    }.items():
        module.log(f"{split}_{name}", float("nan") if mean is None else mean, prog_bar=True, rank_zero_only=False)
        if ci95 is not None:
            module.log(f"{split}_{name}_ci95", ci95)


@contextmanager
def without_graph(batch: EpisodeBatch) -> Iterator[EpisodeBatch]:
    """Evaluate in here: gradients are computed where they are asked for, and no graph is kept.

    Lightning evaluates in inference mode, in which nothing can adapt. It is left, and the batch that was made in it is
    copied, because autograd refuses its tensors.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield EpisodeBatch(*map(usable, batch))
