"""Print the README's results table from the records in ``benchmarks/results/``; ``--write`` puts it into the README.

A record is a folder with a run's ``config.yaml``, ``run.json`` and ``test_metrics.json``:

    python benchmarks/results_table.py --add logs/Sinusoid-LitMAML/version_0 sinusoid_10shot --write
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARK = "<!-- results: python benchmarks/results_table.py --write -->"
END = "<!-- end -->"

#: Record, experiment, published number (Finn et al. 2017; CIFAR-FS: Bertinetto et al. 2019), inner steps that are
#: compared, and what to know.
ROWS = [
    ("sinusoid_5shot", "Sinusoid, K = 5", "0.67 / 0.38 / 0.35", (1, 5, 10), "MSE after 1 / 5 / 10 steps"),
    (
        "sinusoid_10shot",
        "Sinusoid, K = 10",
        "0.37 / 0.14 / 0.11 (a plain script)",
        (1, 5, 10),
        "MSE after 1 / 5 / 10 steps",
    ),
    (
        "sinusoid_10shot_seed1",
        "Sinusoid, K = 10",
        "0.37 / 0.14 / 0.11 (a plain script)",
        (1, 5, 10),
        "MSE after 1 / 5 / 10 steps",
    ),
    (
        "sinusoid_10shot_cosine",
        "Sinusoid, K = 10, outer rate along a cosine",
        "0.37 / 0.14 / 0.11 (a plain script)",
        (1, 5, 10),
        "MSE after 1 / 5 / 10 steps",
    ),
    ("omniglot_5way_1shot", "Omniglot 5-way 1-shot", "–", (3,), "15 queries per class in the test"),
    (
        "omniglot_5way_1shot_1query",
        "Omniglot 5-way 1-shot",
        "98.7 ± 0.4 %",
        (3,),
        "1 query per class, as in the paper's code",
    ),
    ("mini_imagenet_5way_1shot", "mini-ImageNet 5-way 1-shot", "48.70 ± 1.84 %", (10,), "60 000 updates published"),
    ("cifar_fs_5way_1shot", "CIFAR-FS 5-way 1-shot", "58.9 ± 1.9 %", (10,), "60 000 updates published"),
]


def table() -> str:
    """The table in Markdown; an experiment without a record says so."""
    lines = [
        "| experiment | result ± 95 % CI | published | episodes | updates | seed | time | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, experiment, published, steps, note in ROWS:
        folder = RESULTS / name
        if not folder.is_dir():
            lines.append(f"| {experiment} | not run yet | {published} | | | | | |")
            continue
        record = RunFolder(folder)
        config, parts, test = record.config(), record.parts(), record.result()
        accuracy = test["metric"] == "accuracy"
        scale, digits, unit = (100, 2, " %") if accuracy else (1, 3, "")
        rows = {row["step"]: row for row in test["per_step"]}
        result = " / ".join(
            f"{scale * rows[s]['mean']:.{digits}f} ± {scale * rows[s]['ci95']:.{digits}f}" for s in steps
        )
        commands = ", then ".join(f"`{' '.join(part['command'])}`" for part in parts)
        seconds = sum(value for part in parts for value in part.get("seconds", {}).values())
        diverged = f", {n} diverged" if (n := test["diverged"]) else ""
        lines.append(
            f"| {experiment} ({note}) | **{result}{unit}** | {published} | {test['episodes']}{diverged} "
            f"| {parts[-1]['updates']} | {config['seed']} | {round(seconds / 60)} min | {commands} |"
        )
    return "\n".join(lines)


def add(run_folder: Path, name: str) -> None:
    """Copy a run's record, without the folders of the machine it ran on."""
    folder, record = RESULTS / name, RunFolder(run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in record.config().items() if key not in ("log_dir", "data_dir", "resume")}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = record.facts()
    part: dict[str, Any] | None = run
    while part is not None:
        part["command"] = [flag for flag in part["command"] if not flag.startswith(("--log_dir", "--data_dir"))]
        part = part.get("resumed")
    (folder / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    shutil.copy(run_folder / "test_metrics.json", folder)


def write_into_readme(mark: str, text: str) -> None:
    """Replace what stands between a mark and the comment ``<!-- end -->`` after it."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(mark)
    after = rest[rest.index(END) :]
    readme.write_text(f"{before}{mark}\n{text}\n{after}")


def main() -> None:
    """Add a record if asked to, print the table, write it if asked to."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--add", nargs=2, metavar=("RUN_FOLDER", "RECORD"), help="copy a run's record first")
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    arguments = parser.parse_args()
    if arguments.add:
        add(Path(arguments.add[0]), arguments.add[1])
    print(table())
    if arguments.write:
        write_into_readme(MARK, table())


if __name__ == "__main__":
    main()
