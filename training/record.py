"""A run is a record: its folder, what it was, what it found."""

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from few_shot.errors import BadInput
from few_shot.evaluation import summarize, table, write_episodes
from training.command_line import Experiment, is_first_process

#: Hands the run's number from the process that started the run to those it launches.
VERSION_VARIABLE = "FEW_SHOT_RUN_VERSION"


def run_directory(experiment: Experiment) -> Path:
    """The run's own folder ``<log_dir>/<data>-<algorithm>/version_<n>``, made by the process that starts the run.

    A resumed run goes on in the folder of its checkpoint.
    """
    options = experiment.options
    name = "-".join(experiment.classes[k].__name__ for k in ("data_class", "lit_model_class"))
    parent = Path(options.log_dir) / name
    if options.resume is not None:
        resumed = Path(options.resume).absolute().parent.parent
        if (resumed / "config.yaml").is_file() and re.fullmatch(r"version_\d+", resumed.name):
            return resumed
    if VERSION_VARIABLE in os.environ:
        return parent / f"version_{os.environ[VERSION_VARIABLE]}"
    make_folder(parent, "log_dir")
    try:
        numbers = [int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdigit()]
        number = max(numbers, default=-1) + (1 if is_first_process() else 0)
        while is_first_process():
            try:
                (parent / f"version_{number}").mkdir()
                break
            except FileExistsError:  # another run that starts just now
                number += 1
    except OSError as error:
        raise BadInput(f"--log_dir={options.log_dir} cannot be written to ({error.strerror}).") from error
    return parent / f"version_{number}"


@rank_zero_only
def record(experiment: Experiment, directory: Path, device: str) -> None:
    """Write down what the run is: its resolved flags (usable as ``--config``), versions, commit and command."""
    keep_earlier_metrics(directory)
    (directory / "config.yaml").write_text(yaml.safe_dump(experiment.config, sort_keys=False))
    packages = ("torch", "torchvision", "pytorch-lightning", "numpy")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    facts = {
        "command": ["python", *sys.argv],
        "commit": commit or None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "device": device,
        "threads": torch.get_num_threads(),
    }
    path = directory / "run.json"
    if path.exists():  # a resumed run: what came before
        facts["resumed"] = json.loads(path.read_text())
    path.write_text(json.dumps(facts, indent=2) + "\n")


@rank_zero_only
def record_cost(directory: Path, updates: int, **seconds: float) -> None:
    """Add to ``run.json`` how many outer updates the weights have seen, and the seconds of a part of this run."""
    path = directory / "run.json"
    facts = json.loads(path.read_text())
    facts["updates"] = updates
    facts.setdefault("seconds", {}).update({part: round(value) for part, value in seconds.items()})
    path.write_text(json.dumps(facts, indent=2) + "\n")


def keep_earlier_metrics(directory: Path) -> None:
    """Put a resumed run's earlier metrics where the CSV logger, which starts a new file, does not delete them."""
    metrics = directory / "metrics.csv"
    if metrics.exists():
        part = len(list(directory.glob("metrics-part*.csv"))) + 1
        metrics.rename(directory / f"metrics-part{part:03d}.csv")


def make_folder(path: Path, flag: str) -> None:
    """Make a folder, or raise BadInput with the name of the flag that asks for it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--{flag}: {path} cannot be made ({error.strerror}).") from error


def load_weights(lit_model: LightningModule, path: str, flag: str) -> None:
    """Load a checkpoint's weights into an algorithm built for it.

    Raises:
        BadInput: its model has other parameters or sizes.
    """
    try:
        lit_model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    except RuntimeError as error:
        difference = " ".join(str(error).split()[:60])
        raise BadInput(
            f"--{flag}={path} is of another model than the flags describe (ways and model must be its own): "
            f"{difference} …"
        ) from error


def report(lit_model: Any, data: Any, directory: Path | None = None) -> dict[str, Any]:
    """Print the test result, write it to ``directory``, and return it."""
    results = lit_model.results
    summary = summarize(results, lit_model.metric, data.eval_seed, lit_model.transductive)
    if directory is not None and is_first_process():
        (directory / "test_metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
        write_episodes(results, lit_model.metric, directory / "test_episodes.csv")
    print_once(f"\n{table(summary)}\n")
    return summary


@rank_zero_only
def print_once(message: str) -> None:
    """Print from the first process only."""
    print(message, flush=True)
