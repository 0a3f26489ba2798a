"""From a resolved experiment to Lightning's Trainer: devices, loggers, checkpoints, the run's folder."""

import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.profilers import SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from few_shot.errors import BadInput
from training.command_line import Experiment, RunOptions

#: Hands the run's number from the process that started the run to those it launches.
VERSION_VARIABLE = "FEW_SHOT_RUN_VERSION"


class Progress(TQDMProgressBar):
    """A bar over all outer updates: training is one endless epoch, whose length Lightning does not know."""

    @property
    def total_train_batches(self) -> int | float:
        return self.trainer.max_steps


class ValidateAtTheEnd(Callback):
    """Validate after the last update too, wherever it falls between two validations."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


def run_directory(experiment: Experiment) -> Path:
    """The run's own folder ``<log_dir>/<data>-<algorithm>/version_<n>``, made by the process that starts the run.

    A resumed run goes on in the folder of its checkpoint.
    """
    options = experiment.options
    name = "-".join(experiment.classes[k].__name__ for k in ("data_class", "lit_model_class"))
    parent = Path(options.log_dir) / name
    if options.resume is not None:
        resumed = Path(options.resume).resolve().parent.parent
        if resumed.parent == parent.resolve() and resumed.name.startswith("version_"):
            return parent / resumed.name
    if VERSION_VARIABLE in os.environ:
        return parent / f"version_{os.environ[VERSION_VARIABLE]}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        numbers = [int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdigit()]
        number = max(numbers, default=-1) + (1 if rank_zero_only.rank == 0 else 0)
        while rank_zero_only.rank == 0:
            try:
                (parent / f"version_{number}").mkdir()
                break
            except FileExistsError:  # another run that starts just now
                number += 1
    except OSError as error:
        raise BadInput(f"--log_dir={options.log_dir} cannot be written to ({error.strerror}).") from error
    return parent / f"version_{number}"


@rank_zero_only
def record(experiment: Experiment, directory: Path) -> None:
    """Write down what the run is: its resolved flags (usable as ``--config``), versions, commit and command."""
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
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }
    (directory / "versions.json").write_text(json.dumps(facts, indent=2) + "\n")


def build_trainer(experiment: Experiment, directory: Path, metric: str) -> pl.Trainer:
    """The Trainer that runs the experiment and writes into ``directory``."""
    options = experiment.options
    quick = options.fast_dev_run
    monitor, mode = (f"val_{metric}", "max" if metric == "accuracy" else "min")
    max_steps = min(options.max_steps, options.limit_train_batches or options.max_steps)
    callbacks: list[Callback] = [ValidateAtTheEnd(), Progress(refresh_rate=20, leave=True)]
    if not quick:
        callbacks.append(
            ModelCheckpoint(
                dirpath=directory / "checkpoints",
                filename="best-{step}",
                monitor=monitor,
                mode=mode,
                save_last=True,
                save_on_train_epoch_end=False,
            )
        )
    if options.stop_early and options.limit_val_batches != 0:
        callbacks.append(
            EarlyStopping(monitor, mode=mode, patience=options.stop_early, check_on_train_epoch_end=False)
        )
    limits = {
        f"limit_{part}_batches": limit
        for part, limit in (("val", options.limit_val_batches), ("test", options.limit_test_batches))
        if limit is not None
    }
    return pl.Trainer(
        **processes(options),
        **limits,
        precision=options.precision.removesuffix("-true").replace("bf16-mixed", "bf16"),
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=options.val_check_interval,
        check_val_every_n_epoch=None,
        log_every_n_steps=min(options.log_every_n_steps, max(1, max_steps // 20)),
        logger=False if quick else loggers(experiment, directory),
        callbacks=callbacks,
        enable_checkpointing=not quick,
        fast_dev_run=quick,
        profiler=SimpleProfiler(dirpath=directory, filename="profile") if options.profile and not quick else None,
        deterministic=options.deterministic,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the data module draws each process's share by index
        inference_mode=False,  # evaluation adapts, and inference mode cannot be undone
    )


def processes(options: RunOptions) -> dict[str, Any]:
    """The Trainer's accelerator, devices and strategy."""
    gpus = visible_gpus(options)
    if gpus and options.num_processes > 1:
        raise BadInput(f"--num_processes={options.num_processes} is for the CPU: add --gpus=0, or leave it out.")
    if not gpus and options.gpus.strip() != "0" and options.accelerator != "cpu":
        print_once("No GPU is used: there is none here that PyTorch can use, so this runs on the CPU.")
    devices: Any = gpus or options.num_processes
    several = len(gpus) > 1 or options.num_processes > 1
    strategy: Any = options.strategy or ("ddp" if several or options.accelerator == "ddp" else "auto")
    if strategy == "ddp":
        # There are no buffers to keep equal, and evaluation may take one batch more in one process than in another.
        strategy = DDPStrategy(broadcast_buffers=False)
    return {"accelerator": "gpu" if gpus else "cpu", "devices": devices, "strategy": strategy}


def visible_gpus(options: RunOptions) -> list[int]:
    """The numbers of the GPUs that ``--gpus`` asks for; none means the CPU.

    Raises:
        BadInput: it asks for GPUs that are not there.
    """
    there = torch.cuda.device_count()
    text = options.gpus.strip()
    try:
        if "," in text:
            wanted = [int(part) for part in text.split(",") if part.strip()]
        else:
            count = int(text)
            wanted = list(range(there if count == -1 else count))
            if count < -1:
                raise ValueError
    except ValueError:
        raise BadInput(f"--gpus={text} is none of -1 (all), 0 (none), a number of GPUs, or numbers such as 0,3.") from None
    if options.accelerator == "cpu":
        return []
    if missing := [gpu for gpu in wanted if not 0 <= gpu < there]:
        raise BadInput(f"--gpus={text} asks for {len(missing)} more than the {there} GPUs that are here.")
    if options.accelerator == "gpu" and not wanted:
        raise BadInput(f"--accelerator=gpu asks for a GPU, and --gpus={text} gives none of the {there} that are here.")
    return wanted


def loggers(experiment: Experiment, directory: Path) -> list[Logger]:
    """CSV and TensorBoard always, Weights & Biases on a flag; all under the run's one number."""
    place = {
        "save_dir": str(directory.parent.parent),
        "name": directory.parent.name,
        "version": int(directory.name.removeprefix("version_")),
    }
    keep_metrics_of_earlier_part(directory)
    found: list[Logger] = [CSVLogger(**place), TensorBoardLogger(**place, default_hp_metric=False)]
    if experiment.options.wandb:
        offline = wandb_is_out_of_reach()
        if offline:
            print_once(f"Weights & Biases: {offline}, so this run is logged offline; `wandb sync` uploads it later.")
        label = f"{directory.parent.name}-{directory.name}"
        found.append(WandbLogger(project="few_shot", name=label, save_dir=str(directory), offline=bool(offline)))
    for logger in found:
        logger.log_hyperparams(experiment.config)
    return found


@rank_zero_only
def keep_metrics_of_earlier_part(directory: Path) -> None:
    """Put a resumed run's earlier metrics where the CSV logger, which starts a new file, does not delete them."""
    metrics = directory / "metrics.csv"
    if metrics.exists():
        part = len(list(directory.glob("metrics-part*.csv"))) + 1
        metrics.rename(directory / f"metrics-part{part}.csv")


def wandb_is_out_of_reach() -> str | None:
    """Why Weights & Biases can only be used offline, or None. With a key and no network it would block for minutes."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") in ("offline", "disabled", "dryrun"):
        return f"WANDB_MODE is {os.environ['WANDB_MODE']}"
    settings = wandb.setup().settings
    if not (os.environ.get("WANDB_API_KEY") or wandb.Api.__module__ and settings.api_key or wandb.api.api_key):
        return "there is no API key (run `wandb login`)"
    address = urlsplit(settings.base_url)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()
    except OSError:
        return f"{address.hostname} cannot be reached"
    return None


@rank_zero_only
def print_once(message: str) -> None:
    """Print from the first process only."""
    print(message, flush=True)
