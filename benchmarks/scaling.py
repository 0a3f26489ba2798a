"""Draw how a meta-training step's time and memory grow with tasks, ways, shots and inner steps: ``docs/scaling.png``.

python benchmarks/scaling.py                 # a few minutes
python benchmarks/scaling.py --device=cuda
python benchmarks/scaling.py --redraw        # what benchmarks/results/ holds

Ours and the plain loop in turn, on a small Conv4 at 28x28. The numbers go to ``benchmarks/results/``.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import machine
from benchmarks.environment import ROOT
from benchmarks.race import race, turns
from benchmarks.results_table import RESULTS
from benchmarks.step import check, enter, on_device
from benchmarks.workloads import ALL_ADAPT, Workload
from few_shot.figure_style import house_style, line_style, log_axis, new_figure, readable_memory, readable_time, save

RIVALS = ("ours", "plain loop", "plain loop, memory kept")
START = {"batch_size": 8, "episode_classes": 5, "support_samples": 1, "inner_loop_steps": 1}
AXES = {
    "tasks": ("batch_size", (1, 2, 4, 8, 16, 32)),
    "ways": ("episode_classes", (2, 5, 10, 20)),
    "shots": ("support_samples", (1, 2, 5, 10)),
    "inner steps": ("inner_loop_steps", (1, 2, 5, 10)),
}


def workload(flag: str, value: int) -> Workload:
    """The step with one flag changed from START."""
    flags = [f"--{name}={number}" for name, number in (START | {flag: value}).items()]
    return Workload(f"{flag} {value}", ("--data_class=Omniglot", *ALL_ADAPT, "--width=32", *flags), rounds=1)


def measure(device: str, rounds: int) -> dict[str, dict[str, Any]]:
    """For each axis, each rival's seconds and bytes at each value; everything else as in START."""
    result: dict[str, dict[str, Any]] = {}
    for axis, (flag, values) in AXES.items():
        result[axis] = {"values": values, "seconds": {}, "bytes": {}}
        for value in values:
            print(axis, value, file=sys.stderr, flush=True)
            entries = {name: (enter, (name, workload(flag, value), device)) for name in on_device(RIVALS, device)}
            facts = race(entries, rounds, check)
            for name, fact in facts.items():
                if "error" in fact:
                    raise SystemExit(f"{name}, {axis} {value}: {fact['error']}")
                result[axis]["seconds"].setdefault(name, []).append(fact["seconds"])
                result[axis]["bytes"].setdefault(name, []).append(fact["memory"])
    return result


@house_style()
def draw(result: dict[str, dict[str, Any]], path: Path) -> None:
    """Time above, memory below, an axis a column."""
    figure, rows = new_figure(2, len(result), width=2.9, height=2.3, sharey="row")
    for column, (axis, measured) in zip(rows.T, result.items(), strict=True):
        for panel, quantity in zip(column, ("seconds", "bytes"), strict=True):
            for number, (name, values) in enumerate(measured[quantity].items()):
                panel.plot(measured["values"], values, label=name, **line_style(number))
            panel.set(xscale="log")
            panel.set_xticks(measured["values"], [str(value) for value in measured["values"]])
            panel.set_xticks([], minor=True)
        column[1].set_xlabel(axis)
    for (first, *_), label, text in zip(
        rows, ("time of a step", "peak memory"), (readable_time, readable_memory), strict=True
    ):
        first.set_ylabel(label)
        log_axis(first.yaxis, text)
    figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=len(RIVALS))
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write down, unless told only to redraw; draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--rounds", type=turns, default=10, help="turns for each (default: 10)")
    parser.add_argument(
        "--output", type=Path, help="the picture (default: docs/scaling.png, on a GPU scaling_cuda.png)"
    )
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    options = parser.parse_args(argv)
    file = RESULTS / f"scaling_{options.device}.json"
    if not options.redraw:
        curves = measure(options.device, options.rounds)
        record = {"machine": machine.description(options.device), "start": START, "curves": curves}
        file.write_text(json.dumps(record, indent=1) + "\n")
    picture = options.output or ROOT / "docs" / ("scaling.png" if options.device == "cpu" else "scaling_cuda.png")
    draw(json.loads(file.read_text())["curves"], picture)
    print(picture)


if __name__ == "__main__":
    main()
