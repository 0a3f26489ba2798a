"""What an experiment computes on: GPUs, or CPU processes."""

import os
import platform
import signal
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy

from few_shot.errors import BadInput
from training.experiment import Experiment
from training.terminal import say


def processes(experiment: Experiment) -> dict[str, Any]:
    """The Trainer's accelerator, devices and strategy."""
    options = experiment.options
    gpus = gpus_to_use(experiment)
    if gpus and options.num_processes > 1:
        raise BadInput(f"--num_processes={options.num_processes} is for the CPU: add --gpus=0, or leave it out.")
    if not gpus and options.gpus.strip() != "0" and options.accelerator != "cpu":
        say("No GPU is used: there is none here that PyTorch can use, so this runs on the CPU.")
    devices: Any = gpus or options.num_processes
    several = len(gpus) > 1 or options.num_processes > 1
    strategy: Any = options.strategy
    if strategy == "auto" and (several or options.accelerator == "ddp"):
        strategy = "ddp"
    if strategy == "ddp":
        # There are no buffers to keep equal, and evaluation may take one batch more in one process than in another.
        # A model may have parameters that no loss reaches.
        strategy = DDPStrategy(broadcast_buffers=False, find_unused_parameters=True)
    return {"accelerator": "gpu" if gpus else "cpu", "devices": devices, "strategy": strategy}


def device_name(experiment: Experiment) -> str:
    """What the run computes on, for its record."""
    gpus = gpus_to_use(experiment)
    if gpus:
        return ", ".join(torch.cuda.get_device_name(gpu) for gpu in gpus)
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"


def gpus_to_use(experiment: Experiment) -> list[int]:
    """The numbers of the GPUs that ``--gpus`` asks for; an empty list is the CPU.

    ``-1`` is all GPUs, but no more than a meta-batch has tasks.

    Raises:
        BadInput: it asks for GPUs that are not there.
    """
    options = experiment.options
    there = torch.cuda.device_count()
    everything = min(there, experiment.arguments["data_class"].get("batch_size", there))
    text = options.gpus.strip()
    wanted: Sequence[int]
    try:
        if "," in text:
            wanted = [int(part) for part in text.removesuffix(",").split(",")]
        else:
            count = int(text)
            wanted = range(everything if count == -1 else count)  # not a list: it may be a number of twenty digits
            if count < -1:
                raise ValueError
    except ValueError:
        raise BadInput(
            f"--gpus={text} is none of -1 (all), 0 (none), a number of GPUs, or numbers such as 0,3."
        ) from None
    if options.accelerator == "cpu":
        return []
    missing = next((gpu for gpu in wanted if not 0 <= gpu < there), None)
    if missing is not None:
        raise BadInput(f"--gpus={text} asks for GPU {missing}, and there are {there} here, counted from 0.")
    if options.accelerator == "gpu" and not wanted:
        raise BadInput(f"--accelerator=gpu asks for a GPU, and --gpus={text} gives none of the {there} that are here.")
    return list(wanted)


def end_launched(trainer: Trainer) -> None:
    """End the processes that this one has launched for a run."""
    launcher: Any = trainer.strategy.launcher
    if hasattr(launcher, "kill"):
        launcher.kill(signal.SIGTERM)
