"""A run is a record: its folder, what it was, what it found."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from few_shot.errors import BadInput
from few_shot.evaluation import EpisodeResults, summarize, table, write_episodes
from few_shot.lit_models.ensemble import LitEnsemble
from few_shot.metrics import METRICS
from training.command_line import Experiment, is_first_process
from training.weights import read_checkpoint

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
        lit_model.load_state_dict(read_checkpoint(path)["state_dict"])
    except RuntimeError as error:
        difference = " ".join(str(error).split()[:60])
        raise BadInput(
            f"--{flag}={path} is of another model than the flags describe (ways and model must be its own): "
            f"{difference} …"
        ) from error


def ranked(scores: Mapping[str, Any], folder: Path, mode: str) -> list[tuple[str, Any]]:
    """The checkpoints that lie in ``folder``, wherever they lay when they were scored, and their scores, best first."""
    here = {folder / Path(path).name: score for path, score in scores.items()}
    found = [(str(path), score) for path, score in here.items() if path.is_file()]
    return sorted(found, key=lambda item: float(item[1]), reverse=mode == "max")


def ensemble_of(folder: Path, most: int, metric: str) -> list[dict[str, Any]]:
    """The weights of a run's best checkpoints by validation, best first: ``most`` of them, or as many as there are.

    Raises:
        BadInput: there are none.
    """
    scores: dict[str, Any] = {}
    if (folder / "last.ckpt").is_file():
        callbacks = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)["callbacks"]
        for state in callbacks.values():
            scores |= state.get("best_k_models", {})
    paths = [path for path, _ in ranked(scores, folder, METRICS[metric].mode)[:most]]
    if not paths:
        raise BadInput(
            f"--ensemble={most} finds no validated checkpoints of a run, with its last.ckpt, in {folder}: "
            "--ensemble=0 tests one model alone."
        )
    if len(paths) < most:
        print_once(f"--ensemble={most}: the run kept {len(paths)} validated checkpoints, and the ensemble is of those.")
    return [torch.load(path, map_location="cpu", weights_only=True)["state_dict"] for path in paths]


def test(
    trainer: Trainer,
    lit_model: Any,
    data: Any,
    checkpoint: str | None = None,
    members: Sequence[dict[str, Any]] = (),
    directory: Path | None = None,
) -> dict[str, Any]:
    """Test a model and, on the same episodes, an ensemble; print the result, write it to ``directory``, return it.

    Args:
        checkpoint: the weights to test; None for those that the model has.
        members: weights of an ensemble; none for no ensemble.
    """

    def summary(results: EpisodeResults) -> dict[str, Any]:
        return summarize(results, data.metric, data.eval_seed, lit_model.transductive)

    trainer.test(lit_model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    results, found = {"test": lit_model.results}, summary(lit_model.results)
    if members:
        ensemble: Any = LitEnsemble(lit_model, members)
        trainer.test(ensemble, datamodule=data, verbose=False)
        results["ensemble"] = ensemble.results
        found["ensemble"] = {"members": len(members)} | summary(ensemble.results)
    if directory is not None and is_first_process():
        (directory / "test_metrics.json").write_text(json.dumps(found, indent=2) + "\n")
        for name, episodes in results.items():
            write_episodes(episodes, data.metric, directory / f"{name}_episodes.csv")
    print_once(f"\n{table(found)}\n")
    return found


@rank_zero_only
def print_once(message: str) -> None:
    """Print from the first process only."""
    print(message, flush=True)
