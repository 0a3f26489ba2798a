"""Print the tables of speed from what ``benchmarks/step.py`` wrote; ``--write`` puts them into ``docs/speed.md``."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.results_table import RESULTS, ROOT, write_between

MARK = "<!-- speed: python benchmarks/speed_table.py --write -->"


def tables() -> str:
    """What has been measured so far, on all devices."""
    records = sorted(RESULTS.glob("step_*.json"))
    return "\n\n".join(table(record) for record in records) or "Not measured yet: `make bench`."


def table(record: Path) -> str:
    """A device's tables in Markdown, over a line that says on what they were measured."""
    result = json.loads(record.read_text())
    steps, peaks = result["steps"].values(), result["peaks"]
    rivals = list(dict.fromkeys(name for step in steps for name in step["rivals"]))
    rivals.sort(key=lambda name: (name != "ours", name.startswith(("ours", "plain"))))  # ours and the peers come first
    lines = _grid(["step", *rivals], [[s["title"], *(_time(s["rivals"], name) for name in rivals)] for s in steps])
    costs = ["GFLOP", "ours, of peak", "operations, ours / plain loop", "memory, ours / plain loop"]
    lines += ["", *_grid(["step", *costs], [[step["title"], *_cost(step, peaks)] for step in steps])]
    if "loop" in result:
        lines += ["", *_row("update of the sinusoid", {k: _seconds(v) for k, v in _medians(result["loop"]).items()})]
    if "episodes" in result:
        episodes = result["episodes"]
        rates = {name: f"{1 / seconds:.0f}" for name, seconds in _medians(episodes["rivals"]).items()}
        lines += ["", *_row(f"episodes per second, 5-way 1-shot, 15 queries, {episodes['images']}", rates)]
    return "\n".join([*lines, "", _machine(result["machine"], peaks)])


def _medians(rivals: dict[str, Any]) -> dict[str, float]:
    return {name: rival.get("seconds", math.nan) for name, rival in rivals.items()}


def _row(title: str, cells: dict[str, str]) -> list[str]:
    """A table of one row."""
    return _grid([title, *cells], [["", *cells.values()]])


def _grid(columns: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def _time(rivals: dict[str, Any], name: str) -> str:
    """Median and half the distance of the quartiles; how many times ours it is."""
    rival = rivals.get(name, {"error": "–"})
    if "seconds" not in rival:
        return rival["error"]
    lower, upper = rival["quartiles"]
    cell = f"{_seconds(rival['seconds'])} ±{50 * (upper - lower) / rival['seconds']:.0f} %"
    if name == "ours" or "seconds" not in rivals["ours"]:
        return f"**{cell}**"
    return f"{cell} ({rival['seconds'] / rivals['ours']['seconds']:.2f}×)"


def _cost(step: dict[str, Any], peaks: dict[str, float]) -> list[str]:
    """FLOPs, the share of the peak that ours reaches, operations and memory."""
    ours, loop = step["rivals"]["ours"], step["rivals"]["plain loop"]
    gflop = step["flops"] / 1e9
    cells = [f"{gflop:.3g}"]
    best = max(peaks["convolution_gflops"], peaks["matmul_gflops"])
    cells.append(f"{100 * gflop / ours['seconds'] / best:.0f} %" if "seconds" in ours else "–")
    both = [[rival.get(what) for rival in (ours, loop)] for what in ("ops", "memory")]
    for what, values in zip(("ops", "memory"), both, strict=True):
        shown = ["–" if v is None else f"{v:,}".replace(",", " ") if what == "ops" else _bytes(v) for v in values]
        cells.append(" / ".join(shown))
    return cells


def _machine(machine: dict[str, Any], peaks: dict[str, float]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    place = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    return (
        f"{place}, {machine['threads']} threads; convolution at best {peaks['convolution_gflops']:.0f} GFLOP/s, "
        f"matrix product {peaks['matmul_gflops']:.0f}, copy {peaks['copy_gbs']:.0f} GB/s. "
        f"Python {machine['python']}, {versions}; commit {machine['commit']}."
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _bytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def main() -> None:
    """Print the tables, write them if asked to."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/speed.md")
    arguments = parser.parse_args()
    print(tables())
    if arguments.write:
        write_between(ROOT / "docs" / "speed.md", MARK, tables())


if __name__ == "__main__":
    main()
