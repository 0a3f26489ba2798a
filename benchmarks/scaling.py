"""Draw how a meta-training step's time and memory grow with tasks, ways, shots and inner steps: ``docs/scaling.png``.

python benchmarks/scaling.py                 # a few minutes
python benchmarks/scaling.py --device=cuda

Ours and the plain loop in turn, on a small Conv4 at 28x28. The numbers go to ``benchmarks/results/``.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks import machine
from benchmarks.environment import ROOT
from benchmarks.race import race
from benchmarks.results_table import RESULTS
from benchmarks.step import check, enter, on_device
from benchmarks.workloads import Workload

RIVALS = ("ours", "plain loop", "plain loop, memory kept")
START = {"batch_size": 8, "episode_classes": 5, "support_samples": 1, "inner_loop_steps": 1}
AXES = {
    "tasks": ("batch_size", (1, 2, 4, 8, 16, 32)),
    "ways": ("episode_classes", (2, 5, 10, 20)),
    "shots": ("support_samples", (1, 2, 5, 10)),
    "inner steps": ("inner_loop_steps", (1, 2, 5, 10)),
}


def measure(device: str, rounds: int) -> dict[str, dict[str, Any]]:
    """For each axis, each rival's seconds and bytes at each value; everything else as in START."""
    result: dict[str, dict[str, Any]] = {}
    for axis, (flag, values) in AXES.items():
        result[axis] = {"values": values, "seconds": {}, "bytes": {}}
        for value in values:
            print(axis, value, file=sys.stderr, flush=True)
            flags = [f"--{name}={number}" for name, number in (START | {flag: value}).items()]
            workload = Workload(f"{axis} {value}", ("--data_class=Omniglot", "--width=32", *flags), rounds)
            entries = {name: (enter, (name, workload, device)) for name in on_device(RIVALS, device)}
            facts = race(entries, rounds, check)
            for name, fact in facts.items():
                if "error" in fact:
                    raise SystemExit(f"{name}, {axis} {value}: {fact['error']}")
                result[axis]["seconds"].setdefault(name, []).append(fact["seconds"])
                result[axis]["bytes"].setdefault(name, []).append(fact["memory"])
    return result


def draw(result: dict[str, dict[str, Any]], path: Path) -> None:
    """Time above, memory below, an axis a column."""
    figure, rows = plt.subplots(2, len(result), figsize=(12, 5), sharey="row", layout="constrained")
    for column, (axis, measured) in zip(rows.T, result.items(), strict=True):
        for panel, (quantity, scale) in zip(column, (("seconds", 1e3), ("bytes", 1e-6)), strict=True):
            for name, numbers in measured[quantity].items():
                panel.plot(measured["values"], [scale * n for n in numbers], "o-", label=name)
            panel.set(xscale="log", yscale="log")
            panel.set_xticks(measured["values"], [str(value) for value in measured["values"]])
            panel.set_xticks([], minor=True)
        column[1].set_xlabel(axis)
    rows[0, 0].set_ylabel("step, ms")
    rows[1, 0].set_ylabel("peak memory, MB")
    rows[0, 1].legend()  # where no curve is
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write down, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--rounds", type=int, default=10, help="turns for each (default: 10)")
    parser.add_argument(
        "--output", type=Path, help="the picture (default: docs/scaling.png, on a GPU scaling_cuda.png)"
    )
    options = parser.parse_args(argv)
    curves = measure(options.device, options.rounds)
    record = {"machine": machine.description(options.device), "start": START, "curves": curves}
    (RESULTS / f"scaling_{options.device}.json").write_text(json.dumps(record, indent=1) + "\n")
    picture = options.output or ROOT / "docs" / ("scaling.png" if options.device == "cpu" else "scaling_cuda.png")
    draw(curves, picture)
    print(picture)


if __name__ == "__main__":
    main()
