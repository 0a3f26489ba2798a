"""Train every algorithm that does regression on the sinusoid, with its baselines, and print how they compare.

python training/compare.py --max_steps=20000

Further flags go to every run. Each run leaves its record under ``--log_dir``.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from training.starting import start

    start()

from few_shot.errors import BadInput, TrainingDiverged
from few_shot.files import given_path
from few_shot.whole_files import write_whole
from training.command_line import clear_errors, parse, parse_run
from training.experiment import Experiment
from training.report import report_of_several
from training.run_experiment import run
from training.run_folder import RunFolder
from training.terminal import is_first_process, print_result, say

STEPS = (0, 1, 5, 10)
MEMBERS = {
    "MAML": ["--lit_model_class=LitMAML"],
    "FOMAML": ["--lit_model_class=LitMAML", "--first_order"],
    "ANIL": ["--lit_model_class=LitANIL"],
    "BOIL": ["--lit_model_class=LitBOIL"],
    "Meta-SGD": ["--lit_model_class=LitMetaSGD"],
    "MAML++": ["--lit_model_class=LitMAMLPlusPlus"],
    "iMAML": ["--lit_model_class=LitIMAML"],
    "Reptile": ["--lit_model_class=LitReptile"],
    "joint training": ["--lit_model_class=LitJoint"],
    "random initialisation": ["--lit_model_class=LitRandom"],
}


def main(argv: Sequence[str] | None = None) -> str:
    """Run the comparison; returns its table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--max_steps", type=int, help="outer updates of each run (default: 20000, or --config's)")
    parser.add_argument("--log_dir", help="folder for the runs (default: logs/compare, or --config's)")
    options, flags = parser.parse_known_args(argv)
    has_config = any(flag.partition("=")[0] == "--config" for flag in flags)
    for name, default in (("max_steps", 20_000), ("log_dir", "logs/compare")):
        given = getattr(options, name)
        if given is not None or not has_config:
            flags.append(f"--{name}={default if given is None else given}")
    columns = ["algorithm", *(f"MSE after {step}" for step in STEPS), "diverged", "time", "learned parameters"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    with clear_errors():
        folders = []
        given = parse(["--data_class=Sinusoid", *flags], "compare")
        common = given.config | {"resume": given.options.resume}
        for flag, usual in (("lit_model_class", "LitMAML"), ("first_order", False), ("resume", None)):
            if (value := common.get(flag, usual)) != usual:
                raise BadInput(f"--{flag}={value} has no use here: every algorithm is trained from its start.")
        # All before the first is trained: a flag that one of them has no use for ends it here.
        members = {name: parse_run(["--data_class=Sinusoid", *flags, *own], "compare") for name, own in MEMBERS.items()}
        run_options = members["MAML"].options
        log_dir = given_path(run_options.log_dir, "--log_dir")
        updates = 1 if run_options.fast_dev_run else run_options.updates
        for experiment in members.values():
            if (metric := getattr(experiment.classes["data_class"], "metric", "mse")) != "mse":
                raise BadInput(
                    f"--data_class={experiment.config['data_class']} cannot be compared here: its metric is {metric}, "
                    "and the table is of squared errors."
                )
        if any(experiment.options.limit_test_batches == 0 for experiment in members.values()):
            raise BadInput("--limit_test_batches=0 leaves nothing to compare.")
        for name, experiment in members.items():
            say(f"\n{name}")
            cells, folder = row(experiment)
            lines.append(f"| {name} | {cells} |")
            folders += [folder] if folder is not None else []
        table = "\n".join(lines)
        print_result(f"\nMean squared error ± 95 % CI after so many inner steps, {updates} outer updates\n\n{table}")
        if folders and is_first_process():
            report = log_dir / "report.html"
            write_whole(report, report_of_several(folders))
            print_result(f"\nreport: {report}")
    return table


def row(experiment: Experiment) -> tuple[str, RunFolder | None]:
    """One run: its errors, how many test episodes diverged, its wall time, and how many numbers it learned.

    Its folder too, unless its training diverged or it was only tried out.
    """
    _, lit_model = experiment.build()
    trained = experiment.classes["lit_model_class"].__name__ != "LitRandom"
    learned = sum(p.numel() for p in lit_model.parameters() if p.requires_grad) if trained else 0
    started = time.perf_counter()
    try:
        summary, folder = run(experiment)
    except TrainingDiverged as error:
        return f"training diverged: {error}" + " |" * (len(STEPS) + 2), None
    if summary is None and folder is not None:  # it was finished before this job of SLURM was queued again
        summary = folder.result()
    assert summary is not None, "a run without a test"
    results = {result["step"]: (result["mean"], result["ci95"]) for result in summary["per_step"]}
    cells = ["–" if step not in results else _cell(*results[step]) for step in STEPS]
    seconds = time.perf_counter() - started
    return " | ".join([*cells, str(summary["diverged"]), f"{seconds:.0f} s", str(learned)]), folder


def _cell(*numbers: float | None) -> str:
    return " ± ".join("undefined" if number is None else f"{number:.3f}" for number in numbers)


if __name__ == "__main__":
    main()
