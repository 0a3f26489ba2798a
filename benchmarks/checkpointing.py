"""What --checkpoint_inner_loop costs and saves as inner steps are added: ``docs/checkpointing.png``.

python benchmarks/checkpointing.py                 # two minutes
python benchmarks/checkpointing.py --device=cuda

Omniglot's Conv4, 8 tasks, 5-way 1-shot. Steps that are kept and steps that are computed again take turns, and their
gradients are checked equal. The numbers go to ``benchmarks/results/``.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks import machine, peers
from benchmarks.environment import ROOT
from benchmarks.race import race, turns
from benchmarks.results_table import RESULTS
from benchmarks.workloads import Workload, build
from few_shot.figure_style import house_style, line_style, new_figure, readable_memory, readable_time, save
from training.process import keep_freed_memory

STEPS = (1, 5, 20, 50)
#: A rate with which fifty steps stay finite.
WORKLOAD = Workload("", ("--data_class=Omniglot", "--batch_size=8", "--inner_lr=0.01"), 5)
FLAGS = {"kept": (), "computed again": ("--checkpoint_inner_loop",)}


def enter(flags: tuple[str, ...], device: str) -> tuple[dict[str, Any], Any]:
    """The step with these flags, in a process of its own: its memory, its gradient, and what it does in a turn."""
    if device == "cpu":
        keep_freed_memory()
    step = peers.ours(build(WORKLOAD, flags, device))
    with machine.PeakMemory(device) as memory:
        step()
    exact = peers.ours(build(WORKLOAD, flags, device, torch.float64, tasks=2))()
    gradient = np.concatenate([g.detach().cpu().numpy().ravel() for g in exact])
    return {"bytes": memory.bytes, "gradient": gradient}, lambda: machine.seconds(step, device)


def check(facts: dict[str, dict[str, Any]]) -> None:
    """Both have the same gradient."""
    if failed := [fact["error"] for fact in facts.values() if "error" in fact]:
        raise SystemExit(failed[0])
    kept, again = (fact.pop("gradient") for fact in facts.values())
    np.testing.assert_allclose(again, kept, rtol=0, atol=1e-12 * np.abs(kept).max())


def measure(device: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """By name, seconds and bytes for each number of steps."""
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "bytes": []} for name in FLAGS}
    for steps in STEPS:
        print(f"{steps} inner steps", file=sys.stderr, flush=True)
        entries = {name: (enter, ((*flags, f"--inner_loop_steps={steps}"), device)) for name, flags in FLAGS.items()}
        for name, fact in race(entries, rounds, check).items():
            for quantity in ("seconds", "bytes"):
                found[name][quantity].append(fact[quantity])
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """A row for each number of steps, in Markdown."""
    rows = ["| inner steps | kept | computed again | time | memory |", "|---|---|---|---|---|"]
    for i, steps in enumerate(STEPS):
        (a, b), (c, d) = ([found[name][quantity][i] for name in FLAGS] for quantity in ("seconds", "bytes"))
        cells = [f"{1e3 * s:.0f} ms, {1e-6 * m:.0f} MB" for s, m in ((a, c), (b, d))]
        rows.append(f"| {steps} | {cells[0]} | {cells[1]} | {b / a:.2f}× | {d / c:.2f}× |")
    return "\n".join(rows)


@house_style()
def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Time on the left, memory on the right."""
    figure, panels = new_figure(1, 2)
    shown = (("seconds", "time of an update", readable_time), ("bytes", "peak memory", readable_memory))
    for panel, (quantity, label, text) in zip(panels.flat, shown, strict=True):
        for number, (name, measured) in enumerate(found.items()):
            panel.plot(STEPS, measured[quantity], label=name, **line_style(number))
        panel.set(xlabel="inner steps", ylabel=label, ylim=0)
        panel.yaxis.set_major_formatter(lambda value, _, text=text: text(value) if value else "0")
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(found))
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write down, draw, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--rounds", type=turns, default=5, help="turns for each (default: 5)")
    options = parser.parse_args(argv)
    found = measure(options.device, options.rounds)
    record = {"machine": machine.description(options.device), "steps": STEPS, "measured": found}
    (RESULTS / f"checkpointing_{options.device}.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(found, ROOT / "docs" / ("checkpointing.png" if options.device == "cpu" else "checkpointing_cuda.png"))
    print(table(found))


if __name__ == "__main__":
    main()
