"""Print the README's results table from the records in ``benchmarks/results/``; ``--write`` puts it into the README.

The rows are those of ``benchmarks/rows.yaml``, and ``make reproduce`` writes their records: a folder with a run's
``config.yaml`` and ``run.json``, its weights, and for each number of query samples its test. A test of mini-ImageNet is
compared, episode by episode, with the MAML authors' released weights, if their results are at hand.
"""

import argparse
import csv
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from few_shot.evaluation import paired_difference
from few_shot.metrics import METRICS

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "rows.yaml"
RESULTS = ROOT / "benchmarks" / "results"
AUTHORS = ROOT.parent / "shared" / "data" / "finn2017_mini_imagenet_5way_1shot.csv"
MARK = "<!-- results: python benchmarks/results_table.py --write -->"
END = "<!-- end -->"


@dataclass
class Row:
    """An experiment of the results table; ``rows.yaml`` says what its fields mean."""

    name: str
    title: str
    flags: str
    tests: dict[int, str | None]
    source: str | None
    steps: list[int] | None = None
    episodes: dict[int, int] = field(default_factory=dict)
    ours: str | None = None
    against: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    table: bool = True

    @property
    def full_title(self) -> str:
        """The experiment, with what is ours in it."""
        return f"{self.title} ({self.ours})" if self.ours else self.title

    @property
    def command(self) -> str:
        """What trains it."""
        return f"python training/run_experiment.py {self.flags}"

    def of_each_seed(self) -> "list[Row]":
        """A row for each seed; the first seed's has this row's name."""
        first, *others = (replace(self, flags=f"{self.flags} --seed={seed}", seeds=[seed]) for seed in self.seeds)
        if self.seeds[0] == 0:  # the default
            first = replace(first, flags=self.flags)
        return [first, *(replace(row, name=f"{self.name}_seed{row.seeds[0]}") for row in others)]


def read_rows(path: Path = ROWS) -> list[Row]:
    """The rows, in the order in which they are trained."""
    return [Row(**row) for row in yaml.safe_load(path.read_text())]


def table() -> str:
    """The table in Markdown, a line an experiment; one without a record says so."""
    lines = [
        "| experiment | queries | result ± 95 % CI | to compare | episodes | updates | seed | time | command |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = {row.name: row for row in read_rows()}
    lines += [_line(row, rows[row.against] if row.against else None) for row in rows.values() if row.table]
    return "\n".join(lines)


def _line(row: Row, against: Row | None) -> str:
    """A row of the table; a cell has a line for each number of queries that the test was made with."""
    folder = RESULTS / row.name
    results, published, episodes = [], [], []
    for queries, number in row.tests.items():
        path = folder / f"test_{queries}query.json"
        if not path.is_file():
            results.append("in the queue")
            published.append(number or "–")
            continue
        test = json.loads(path.read_text())
        result = f"**{_result(test, row.steps)}**"
        for other in row.of_each_seed()[1:]:
            again = RESULTS / other.name / path.name
            if again.is_file():
                found = json.loads(again.read_text())
                result += f"; seed {other.seeds[0]}: {_result(found, row.steps)}"
                if found["diverged"]:
                    result += f" ({found['diverged']} episodes diverged)"
        compared = [number] if number else []
        if path.with_name(f"difference_{queries}query.json").is_file():
            paired = json.loads(path.with_name(f"difference_{queries}query.json").read_text())
            compared.append(f"paired difference {_result_of(paired, 100, 2, signed=True)} %")
        if against and (theirs := RESULTS / against.name / f"test_{queries}query.csv").is_file():
            paired = _result_of(compare(path.with_suffix(".csv"), theirs), 100, 2, signed=True)
            algorithm = against.full_title.partition(", ")[2]  # the data set is the same
            compared.append(f"paired difference to {algorithm} {paired} %")
        results.append(result)
        published.append("; ".join(compared) or "–")
        episodes.append(
            f"{test['episodes']}, {test['diverged']} diverged" if test["diverged"] else str(test["episodes"])
        )
    updates = seed = time = ""
    if episodes:
        run = json.loads((folder / "run.json").read_text())
        minutes = round(sum(run["seconds"].values()) / 60)
        updates, seed = str(run["updates"]), str(row.seeds[0])
        time = f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    elif set(results) == {"in the queue"}:
        results = ["in the queue"]
    if set(published) == {"–"}:
        published = ["–"]
    several = (map(str, row.tests), results, published, episodes)
    cells = [row.full_title, *("<br>".join(cell) for cell in several), updates, seed, time, f"`{row.command}`"]
    return "| " + " | ".join(cells) + " |"


def _result(test: dict[str, Any], steps: list[int] | None) -> str:
    metric = METRICS[test["metric"]]
    rows = {row["step"]: row for row in test["per_step"]}
    shown = (_result_of(rows[s], metric.scale, min(metric.digits, 3)) for s in steps or [max(rows)])
    return " / ".join(shown) + metric.unit


def _result_of(row: dict[str, Any], scale: float, digits: int, signed: bool = False) -> str:
    return f"{scale * row['mean']:{'+' if signed else ''}.{digits}f} ± {scale * row['ci95']:.{digits}f}"


def compare(ours: Path, theirs: Path) -> dict[str, float | None]:
    """Mean and 95 % interval of the difference, ours minus theirs, of two files of one result an episode."""
    mean, ci95, episodes = paired_difference(by_episode(ours), by_episode(theirs))
    return {"mean": mean, "ci95": ci95, "episodes": episodes}


def by_episode(path: Path) -> dict[int, float]:
    """A file of one result an episode, by the episodes' numbers."""
    with path.open() as file:
        reader = csv.reader(file)
        next(reader)  # the names of the columns
        return {int(episode): float(value) for episode, value in reader}


def compare_with_the_authors() -> None:
    """Write the paired difference beside every test of mini-ImageNet on the authors' episodes."""
    for ours in RESULTS.glob("mini_imagenet_5way_1shot*/test_15query.csv"):
        difference = compare(ours, AUTHORS)
        ours.with_name("difference_15query.json").write_text(json.dumps(difference, indent=2) + "\n")


def write_between(page: Path, mark: str, text: str) -> None:
    """Replace what stands on a page between a mark and the comment ``<!-- end -->`` after it."""
    before, _, rest = page.read_text().partition(mark)
    after = rest[rest.index(END) :]
    page.write_text(f"{before}{mark}\n{text}\n{after}")


def main() -> None:
    """Print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    arguments = parser.parse_args()
    if AUTHORS.is_file():
        compare_with_the_authors()
    print(table())
    if arguments.write:
        write_between(ROOT / "README.md", MARK, table())


if __name__ == "__main__":
    main()
