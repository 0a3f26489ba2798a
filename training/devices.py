"""What an experiment computes on: GPUs, or CPU processes, on one node or several."""

import os
import platform
import signal
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning import Trainer

from few_shot.errors import BadInput
from training.experiment import Experiment
from training.roll_call import WatchedDDP
from training.terminal import say
from training.world import Launch, World, launch


def processes(experiment: Experiment, world: World, note: Callable[[], str]) -> dict[str, Any]:
    """The Trainer's accelerator, devices, nodes and strategy.

    Args:
        note: where the run stands, a sentence for the case that a process is lost.
    """
    options = experiment.options
    gpus = gpus_to_use(experiment, world.launch)
    if not gpus and options.gpus.strip() != "0" and options.accelerator != "cpu":
        say("No GPU is used: there is none here that PyTorch can use, so this runs on the CPU.")
    strategy: Any = options.strategy
    if strategy == "auto" and (world.size > 1 or options.accelerator == "ddp"):
        strategy = "ddp"
    if strategy == "ddp":
        # There are no buffers to keep equal, and evaluation may take one batch more in one process than in another.
        # A model may have parameters that no loss reaches.
        strategy = WatchedDDP(note, broadcast_buffers=False, find_unused_parameters=True)
    return {
        "accelerator": "gpu" if gpus else "cpu",
        "devices": gpus or world.per_node,
        "num_nodes": world.nodes,
        "strategy": strategy,
        "plugins": [] if world.launch is None else [world.launch.environment],
    }


def world_of(experiment: Experiment) -> World:
    """The processes of an experiment; from here on this process knows whether it is the first.

    Raises:
        BadInput: the flags, the launcher and what is here do not fit together.
    """
    options = experiment.options
    launched = launch(options.num_nodes)
    gpus = gpus_to_use(experiment, launched)
    if gpus and (options.num_processes or 1) > 1:
        raise BadInput(f"--num_processes={options.num_processes} is for the CPU: add --gpus=0, or leave it out.")
    if launched is None:
        return World(options.num_nodes or 1, len(gpus) or options.num_processes or 1)
    asked = ("gpus", len(gpus)) if gpus else ("num_processes", options.num_processes or launched.per_node)
    if asked[1] != launched.per_node:
        raise BadInput(
            f"--{asked[0]}={getattr(options, asked[0])} asks for {asked[1]} on a node, and {launched.name} has started "
            f"{launched.per_node}: --{asked[0]}={'-1' if gpus else 'null'} takes as many as it starts."
        )
    return World(launched.nodes, launched.per_node, launched)


def device_name(experiment: Experiment, world: World) -> str:
    """What the run computes on, for its record."""
    gpus = gpus_to_use(experiment, world.launch)
    name = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    if gpus:
        name = ", ".join(torch.cuda.get_device_name(gpu) for gpu in gpus)
    if world.size == 1:
        return name
    return f"{world.size} processes on {world.nodes} node{'s' * (world.nodes > 1)} with {name}"


def gpus_to_use(experiment: Experiment, launched: Launch | None = None) -> list[int]:
    """The numbers of the GPUs that ``--gpus`` asks for on each node; an empty list is the CPU.

    ``-1`` is as many as processes were launched on the node. If none were, it is all GPUs, but no more than a
    meta-batch has tasks.

    Raises:
        BadInput: it asks for GPUs that are not there.
    """
    options = experiment.options
    there = torch.cuda.device_count()
    text = options.gpus.strip()
    if options.accelerator == "cpu":
        return []
    wanted: Sequence[int]
    try:
        count = -1 if "," in text else int(text)
        # Not a list: it may be a number of twenty digits.
        wanted = [int(part) for part in text.removesuffix(",").split(",")] if "," in text else range(count)
        if count < -1:
            raise ValueError
    except ValueError:
        raise BadInput(
            f"--gpus={text} is none of -1 (all), 0 (none), a number of GPUs, or numbers such as 0,3."
        ) from None
    if text == "-1":
        wanted = range(_all(experiment, there, launched))
    missing = next((gpu for gpu in wanted if not 0 <= gpu < there), None)
    if missing is not None:
        raise BadInput(f"--gpus={text} asks for GPU {missing}, and there are {there} here, counted from 0.")
    if options.accelerator == "gpu" and not wanted:
        raise BadInput(f"--accelerator=gpu asks for a GPU, and --gpus={text} gives none of the {there} that are here.")
    return list(wanted)


def _all(experiment: Experiment, there: int, launched: Launch | None) -> int:
    """How many GPUs ``--gpus=-1`` takes of those that are there."""
    if launched is None or there == 0:
        tasks = experiment.arguments["data_class"].get("batch_size", there)
        return min(there, max(1, tasks // (experiment.options.num_nodes or 1)))
    if launched.per_node > there:
        raise BadInput(
            f"{launched.name} has started {launched.per_node} processes on a node where each sees {there} of the GPUs: "
            "start as many as there are, let all see all of them, or add --gpus=0."
        )
    return launched.per_node


def end_launched(trainer: Trainer) -> None:
    """End the processes that this one has launched for a run."""
    launcher: Any = trainer.strategy.launcher
    if hasattr(launcher, "kill"):
        launcher.kill(signal.SIGTERM)
