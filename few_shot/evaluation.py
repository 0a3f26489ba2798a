"""From each episode's result at each inner step to means with confidence intervals."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from few_shot.errors import BadInput
from few_shot.metrics import METRICS
from few_shot.records import Damaged, read_table
from few_shot.whole_files import write_whole

#: An episode has diverged when its query loss is over this many times its own before adaptation.
DIVERGED_FACTOR = 100.0
#: A loss of classes, in nats, counts as this much before adaptation if it is less. A learner that starts from
#: prototypes may be nearly sure then, and one mistake in many would be a hundred times as much.
LEAST_LOSS_OF_CLASSES = 1.0


@dataclass
class EpisodeResults:
    """What E episodes scored on their query sets after S of the inner steps, the first of them step 0."""

    index: NDArray  # [E], the episodes' numbers in their split
    steps: list[int]  # [S]
    loss: NDArray  # [E, S]
    metric: NDArray  # [E, S]: accuracy in [0, 1] or mean squared error
    of_classes: bool = False

    @staticmethod
    def concatenate(parts: "list[EpisodeResults]") -> "EpisodeResults":
        """All episodes of the parts, in the order of their numbers."""
        index = np.concatenate([p.index for p in parts])
        order = np.argsort(index, kind="stable")
        loss, metric = (np.concatenate([getattr(p, name) for p in parts])[order] for name in ("loss", "metric"))
        return EpisodeResults(index[order], parts[0].steps, loss, metric, parts[0].of_classes)

    @staticmethod
    def of_processes(parts: "list[EpisodeResults]") -> "EpisodeResults":
        """All episodes of the processes, a part each.

        An episode that two have met is counted once: Lightning's sampler fills shares up with some of the others. But
        where numbers repeat within a process, they are no names of episodes, and all count.
        """
        whole = EpisodeResults.concatenate(parts)
        if any(len(np.unique(part.index)) < len(part.index) for part in parts):
            return whole
        index, first = np.unique(whole.index, return_index=True)
        return EpisodeResults(index, whole.steps, whole.loss[first], whole.metric[first], whole.of_classes)

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which episodes have a query loss that is, at any step, not finite or over 100 times that at step 0."""
        return self._diverged_by()[:, -1]

    def _diverged_by(self) -> NDArray[np.bool_]:
        """Which episodes have diverged at a step, or before, ``[E, S]``."""
        before = np.maximum(self.loss[:, :1], LEAST_LOSS_OF_CLASSES if self.of_classes else -np.inf)
        with np.errstate(invalid="ignore", over="ignore"):
            too_large = (before > 0) & (self.loss > DIVERGED_FACTOR * before)  # a loss below 0 has no such bound
            return np.logical_or.accumulate(~np.isfinite(self.loss) | too_large, axis=1)

    def mean_loss(self, step: int = -1) -> tuple[float | None, float | None]:
        """Mean ± 95 % interval of the query loss at a position of ``steps``; diverged episodes are left out."""
        return mean_ci95(self.loss[~self.diverged, step])

    def mean_metric(self, name: str, step: int = -1) -> tuple[float | None, float | None]:
        """Mean ± 95 % interval of the metric; what a diverged episode counts as, the metric says."""
        return mean_ci95(self._counted(name, step)[1])

    def by_episode(self, name: str, step: int = -1) -> dict[int, float]:
        """Each episode's metric by its number; a diverged one is left out or counts as the metric says.

        Raises:
            BadInput: a number is there twice.
        """
        index, values = self._counted(name, step)
        if len(np.unique(index)) < len(index):
            raise BadInput(
                f"Episode {index[np.diff(index, append=-1) == 0][0]} is there more than once: number the episodes of a "
                "test differently (EpisodeBatch.index), so that they can be told apart."
            )
        return dict(zip(index.tolist(), values.tolist(), strict=True))

    def _counted(self, name: str, step: int) -> tuple[NDArray, NDArray]:
        """The numbers of the episodes that count, and their metric."""
        instead = METRICS[name].when_diverged
        if instead is None:
            return self.index[~self.diverged], self.metric[~self.diverged, step]
        return self.index, np.where(self._diverged_by()[:, step], instead, self.metric[:, step])


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[float | None, float | None, int]:
    """Mean ± 95 % interval of ours minus theirs over the episodes that both have, and how many those are.

    They are the same tasks, so the interval is narrower than that of two unrelated results.

    Args:
        ours: each episode's result by its number.
        theirs: the same of another learner, on the same episodes.
    """
    shared = sorted(ours.keys() & theirs.keys())
    return *mean_ci95(np.array([ours[i] - theirs[i] for i in shared])), len(shared)


def mean_ci95(values: NDArray) -> tuple[float | None, float | None]:
    """The mean and 1.96 s / √n, with n - 1 in s; None where it is undefined."""
    n = len(values)
    mean = float(np.mean(values)) if n > 0 else None
    return mean, 1.96 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None


def summarize(results: EpisodeResults, metric: str, seed: int, transductive: bool) -> dict[str, Any]:
    """The content of ``test_metrics.json``: plain numbers, None where a mean is undefined."""
    per_step = []
    for position, step in enumerate(results.steps):
        mean, ci95 = results.mean_metric(metric, position)
        per_step.append({"step": step, "mean": mean, "ci95": ci95})
    return {
        "metric": metric,
        "episodes": len(results.index),
        "seed": seed,
        "per_step": per_step,
        "mean": per_step[-1]["mean"],
        "ci95": per_step[-1]["ci95"],
        "diverged": int(results.diverged.sum()),
        "diverged_episodes": results.index[results.diverged].tolist(),
        "transductive": transductive,
    }


def write_episodes(results: EpisodeResults, metric: str, path: Path) -> None:
    """Write one row per episode and step, so that two runs can be compared pairwise on the same tasks."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["episode", "step", "loss", metric, "diverged"])
    for e, (index, diverged) in enumerate(zip(results.index, results.diverged, strict=True)):
        for s, step in enumerate(results.steps):
            writer.writerow([index, step, results.loss[e, s], results.metric[e, s], int(diverged)])
    write_whole(path, text.getvalue())


def read_episodes(path: Path) -> EpisodeResults:
    """What :func:`write_episodes` has written.

    Raises:
        Damaged: the file holds something else.
    """
    read = read_table(path)
    rows = [list(row.values()) for row in read]
    of_classes = any(METRICS[name].of_classes for row in read[:1] for name in METRICS.keys() & row.keys())
    try:
        numbers = np.array([[int(value) for value in row[:2]] for row in rows]).reshape(len(rows), 2)
        values = np.array([[float(value) for value in row[2:4]] for row in rows]).reshape(len(rows), 2)
        steps = list(dict.fromkeys(numbers[:, 1].tolist()))
        index, in_order = numbers.reshape(-1, len(steps), 2).transpose(2, 0, 1)
        loss, metric = values.reshape(-1, len(steps), 2).transpose(2, 0, 1)
        if (index != index[:, :1]).any() or (in_order != steps).any():
            raise ValueError("its episodes have not the same steps")
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise Damaged(path, error) from error
    return EpisodeResults(index[:, 0], steps, loss, metric, of_classes)


def table(summary: dict[str, Any]) -> str:
    """The summary as text: one line per inner step."""
    metric = METRICS[summary["metric"]]
    unit = metric.unit
    of_split = f" of the {summary['split']} split" if "split" in summary else ""
    lines = [f"{'inner steps':>11}  {metric.title} ± 95 % CI over {summary['episodes']} episodes{of_split}"]

    def number(value: float | None) -> str:
        return "undefined" if value is None else f"{metric.scale * value:.{metric.digits}f}"

    for row in summary["per_step"]:
        lines.append(f"{row['step']:>11}  {number(row['mean'])} ± {number(row['ci95'])}{unit}")
    if summary["diverged"]:
        named = ", ".join(map(str, summary["diverged_episodes"][:10])) + (" …" if summary["diverged"] > 10 else "")
        instead = metric.when_diverged
        counted = "left out of the mean" if instead is None else f"counted as {instead:g}"
        lines.append(f"{summary['diverged']} of {summary['episodes']} episodes diverged ({counted}): {named}")
    if "ensemble" in summary:
        of = summary["ensemble"]
        lost = f" ({of['diverged']} episodes diverged)" if of["diverged"] else ""
        lines.append(f"ensemble of {of['members']}: {number(of['mean'])} ± {number(of['ci95'])}{unit}{lost}")
    if not summary["transductive"]:
        lines.append("non-transductive: batch norm by the support set's statistics")
    return "\n".join(lines)
