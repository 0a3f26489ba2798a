"""Pictures of runs: what their logs and their tests say. Each function draws one, and knows nothing of files."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from few_shot.evaluation import EpisodeResults
from few_shot.figure_style import (
    COLOURS,
    DASHES,
    count_axis,
    house_style,
    line_style,
    log_axis,
    new_figure,
    shade,
)
from few_shot.metrics import METRICS, Metric
from training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Pairs of outer updates and value.
Curve = Sequence[tuple[int, float]]


@house_style()
def draw_curves(folder: RunFolder) -> "Figure | None":
    """A run's training and validation, and its gradient's norm if logged, against outer updates; None without a log."""
    curves = {
        quantity: (folder.curve(f"train_{quantity}"), folder.curve(f"val_{quantity}"))
        for quantity in ("loss", *METRICS)
    }
    # An error that is the loss is drawn once, under the error's name.
    alike = [name for name in METRICS if curves[name][1] and curves[name][1] == curves["loss"][1]]
    names = [name for name, found in curves.items() if any(found) and name not in alike]
    norms = folder.curve("grad_norm")
    panels = len(names) + bool(norms)
    if panels == 0:
        return None
    figure, axes = new_figure(panels, 1, height=3.2 if panels == 1 else 2.4, sharex=True)
    for axis, name in zip(axes[:, 0], names, strict=False):
        metric = METRICS.get(alike[0] if name == "loss" and alike else name)
        _draw_curve(axis, folder, name, metric, *curves[name])
    if norms:
        updates, values = np.array(norms).T
        axes[-1, 0].plot(updates, values, color=COLOURS[0], alpha=0.3, lw=1)
        axes[-1, 0].plot(*_smooth(updates, values), color=COLOURS[0])
        axes[-1, 0].set_ylabel("norm of the\nouter gradient")
        if min(values) > 0:
            log_axis(axes[-1, 0].yaxis)
    axes[-1, 0].set_xlabel("outer updates")
    count_axis(axes[-1, 0].xaxis)
    axes[0, 0].set_title(folder.path.absolute().parent.name)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left")
    return figure


def _draw_curve(axis: "Axes", folder: RunFolder, name: str, metric: Metric | None, train: Curve, val: Curve) -> None:
    """Training, faint with a running mean, and validation with its interval."""
    scale = 1.0 if metric is None else metric.scale
    if train:
        updates, values = np.array(train).T
        axis.plot(updates, scale * values, color=COLOURS[0], alpha=0.3, lw=1)
        running = _smooth(updates, scale * values)
        axis.plot(*running, color=COLOURS[0], linestyle=DASHES[1], label="training (a meta-batch; running mean)")
    if val:
        updates, values = np.array(val).T
        axis.plot(updates, scale * values, "o-", color=COLOURS[1], label="validation, 95 % interval")
        margins = dict(folder.curve(f"val_{name}_ci95"))
        if set(updates) <= set(margins):
            margin = np.array([margins[int(update)] for update in updates])
            shade(axis, updates, scale * values, scale * margin, COLOURS[1])
    axis.set_ylabel(name if metric is None else axis_name(metric.name))
    if (metric is None or metric.mode == "min") and min(value for _, value in [*train, *val]) > 0:
        log_axis(axis.yaxis)


def axis_name(metric: str) -> str:
    """A metric with its unit."""
    unit = METRICS[metric].unit.strip()
    return METRICS[metric].description + (f", {unit}" if unit else "")


def _smooth(updates: np.ndarray, values: np.ndarray, points: int = 20) -> tuple[np.ndarray, np.ndarray]:
    window = max(1, len(values) // points)
    return updates[window - 1 :], np.convolve(values, np.ones(window) / window, mode="valid")


def _many(runs: Mapping[str, Any]) -> "tuple[Figure, Axes]":
    """One panel for several runs, with room for their names below it."""
    lines = sum(len(_wrapped(name).splitlines()) for name in runs) if len(runs) > 1 else 0
    figure, ((axis,),) = new_figure(height=3.0 + 0.22 * lines)
    return figure, axis


def _name_lines(figure: "Figure", runs: Mapping[str, Any]) -> None:
    if len(runs) > 1:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, [_wrapped(name) for name in names], loc="outside lower left")


def _wrapped(name: str) -> str:
    """A run's name in lines that a panel is wide enough for."""
    return textwrap.fill(name, 48)


@house_style()
def draw_steps(runs: Mapping[str, EpisodeResults], metric: str, trained: Mapping[str, int | None]) -> "Figure":
    """The test's result against inner steps, with its 95 % interval; runs on one axis.

    Args:
        runs: each run's test, by its name.
        metric: what was tested.
        trained: inner steps in training by run, marked by a larger point; None where there is no inner loop.
    """
    kind = METRICS[metric]
    figure, axis = _many(runs)
    least = np.inf
    for number, (name, results) in enumerate(runs.items()):
        pairs = [results.mean_metric(metric, i) for i in range(len(results.steps))]
        mean, ci95 = (
            kind.scale * np.array([np.nan if v is None else v for v in row]) for row in zip(*pairs, strict=True)
        )
        style = line_style(number)
        axis.plot(results.steps, mean, label=name, **style)
        shade(axis, results.steps, mean, ci95, style["color"])
        if (step := trained.get(name)) in results.steps:
            at = results.steps.index(step)
            axis.plot(step, mean[at], style["marker"], ms=9, mfc="none", mec=style["color"], mew=1.4)
        least = min(least, np.nanmin(mean, initial=np.inf))
    episodes = len(next(iter(runs.values())).index)
    axis.set(xlabel="inner steps (ringed: as many as in training)", ylabel=axis_name(metric))
    axis.set_title(f"{episodes} test episodes, 95 % interval")
    count_axis(axis.xaxis)
    if kind.mode == "min" and 0 < least < np.inf:
        log_axis(axis.yaxis)
    _name_lines(figure, runs)
    return figure


@house_style()
def draw_updates(folder: RunFolder, tests: Mapping[int, EpisodeResults], metric: str) -> "Figure":
    """The test of each checkpoint that a run kept against its outer updates, beside the run's validation.

    Args:
        tests: a test by the outer updates of its checkpoint.
    """
    scale = METRICS[metric].scale
    figure, ((axis,),) = new_figure()
    values: list[float] = []
    if val := folder.curve(f"val_{metric}"):
        updates, means = np.array(val).T
        margins = dict(folder.curve(f"val_{metric}_ci95"))
        axis.plot(updates, scale * means, "o--", color=COLOURS[1], label="validation, logged by the run")
        shade(axis, updates, scale * means, scale * np.array([margins.get(int(u), 0) for u in updates]), COLOURS[1])
        values += list(means)
    pairs = {update: results.mean_metric(metric) for update, results in sorted(tests.items())}
    found = {update: (mean, ci95 or 0.0) for update, (mean, ci95) in pairs.items() if mean is not None}
    if found:
        means, margin = scale * np.array(list(found.values())).T
        axis.errorbar(
            list(found), means, margin, fmt="s-", color=COLOURS[0], capsize=3, label="test of a kept checkpoint"
        )
        values += list(means)
    axis.set(
        xlabel="outer updates", ylabel=axis_name(metric), title=f"{folder.path.absolute().parent.name}, 95 % interval"
    )
    count_axis(axis.xaxis)
    if METRICS[metric].mode == "min" and min(values, default=0) > 0:
        log_axis(axis.yaxis)
    axis.legend()
    return figure


@house_style()
def draw_validations(runs: Mapping[str, RunFolder], metric: str) -> "Figure | None":
    """The runs' validation against outer updates on one axis; None where none was validated twice."""
    curves = {name: found for name, run in runs.items() if (found := run.curve(f"val_{metric}"))}
    if max(map(len, curves.values()), default=0) < 2:
        return None
    kind = METRICS[metric]
    figure, axis = _many(curves)
    for name, found in curves.items():
        updates, values = np.array(found).T
        axis.plot(updates, kind.scale * values, label=name, **line_style(list(runs).index(name)))
    axis.set(xlabel="outer updates", ylabel=axis_name(metric), title="validation")
    count_axis(axis.xaxis)
    if kind.mode == "min" and min(value for found in curves.values() for _, value in found) > 0:
        log_axis(axis.yaxis)
    _name_lines(figure, curves)
    return figure
