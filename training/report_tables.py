"""The tables of a report, in HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

from few_shot.evaluation import EpisodeResults, paired_difference
from few_shot.metrics import METRICS, Metric
from training.page import text
from training.run_folder import RunFolder


def result_table(result: Mapping[str, Any]) -> str:
    """The result after each inner step, as the run printed it."""
    metric = METRICS[result["metric"]]
    rows = [(row["step"], number(metric, row["mean"], row["ci95"])) for row in result["per_step"]]
    if "ensemble" in result:
        of = result["ensemble"]
        rows.append((f"ensemble of {of['members']}", number(metric, of["mean"], of["ci95"])))
    notes = f"Means with 95 % confidence intervals over {result['episodes']} test episodes."
    if result["diverged"]:
        left = "left out of the mean" if metric.when_diverged is None else f"counted as {metric.when_diverged:g}"
        notes += f" {result['diverged']} diverged, {left}."
    if not result["transductive"]:
        notes += " Not transductive: batch norm by the support set's statistics."
    return table(["inner steps", metric.title], rows) + f"<p>{notes}</p>"


def comparison(runs: Mapping[str, RunFolder], results: Mapping[str, EpisodeResults], metric: Metric) -> str:
    """A row for each run: its result, and the difference to the first on the same episodes."""
    names = list(runs)
    last = {name: result.by_episode(metric.name) for name, result in results.items()}
    rows = []
    for name, result in results.items():
        difference = "–"
        if name != names[0]:
            mean, ci95, _ = paired_difference(last[name], last[names[0]])
            difference = number(metric, mean, ci95, signed=True)
        facts = runs[name].facts()
        rows.append(
            (
                name,
                number(metric, *result.mean_metric(metric.name, 0)),
                f"{number(metric, *result.mean_metric(metric.name))} ({result.steps[-1]})",
                difference,
                int(result.diverged.sum()),
                facts.get("updates", "–"),
                duration(seconds_of(runs[name]).get("training")),
            )
        )
    head = ["run", f"{metric.title} before", "after (inner steps)", f"difference to {names[0]}", "diverged"]
    episodes = len(next(iter(results.values())).index)
    note = (
        f"95 % confidence intervals over the same {episodes} test episodes. A difference is taken episode by episode: "
        "an interval without 0 tells two runs apart, even where their own intervals overlap. "
        f"{'Higher' if metric.mode == 'max' else 'Lower'} is better."
    )
    if metric.when_diverged is None and any(result.diverged.any() for result in results.values()):
        note += " Diverged episodes are left out; a difference is over those that neither run leaves out."
    if apart := [name for name, run in runs.items() if not (run.result() or {}).get("transductive", True)]:
        note += f" Not transductive, with batch norm by the support set's statistics: {', '.join(apart)}."
    return table([*head, "outer updates", "training"], rows) + f"<p>{text(note)}</p>"


def number(metric: Metric, mean: float | None, ci95: float | None, signed: bool = False) -> str:
    """A result with its interval and unit."""
    values = [None if value is None else metric.scale * value for value in (mean, ci95)]
    form = f"{'+' if signed else ''}.{metric.digits}f"
    first, second = (
        "undefined" if v is None else f"{v:{f}}" for v, f in zip(values, (form, form.lstrip("+")), strict=True)
    )
    return f"{first} ± {second}{metric.unit}".replace("-", "\N{MINUS SIGN}")


def seconds_of(folder: RunFolder) -> dict[str, int]:
    """What each part of the run has taken, over all its starts."""
    parts = folder.parts()
    names = dict.fromkeys(name for part in parts for name in part.get("seconds", {}))
    return {name: sum(part.get("seconds", {}).get(name, 0) for part in parts) for name in names}


def duration(seconds: int | None) -> str:
    """A time in the unit that a person would choose."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; without a head, its first column names the rows."""
    top = f"<thead><tr>{''.join(f'<th scope=col>{text(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(
        f"<tr><th scope=row>{text(first)}</th>{''.join(f'<td>{text(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    kind = ' class="numbers"' if head else ""
    return f'<div class="table" tabindex="0"><table{kind}>{top}<tbody>{body}</tbody></table></div>'
