"""Lightning's Trainer for an experiment: devices, processes, loggers, checkpoints."""

import ctypes
import logging
import os
import platform
import socket
import time
import warnings
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.profilers import PassThroughProfiler, Profiler, SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy

from few_shot.errors import BadInput
from few_shot.metrics import METRICS
from training.command_line import Experiment, RunOptions
from training.learner_callbacks import GradientLog, LastGoodCheckpoint, RunConfig
from training.record import print_once, ranked, record_cost


class Progress(TQDMProgressBar):
    """A bar over all outer updates (training is one endless epoch, whose length Lightning does not know).

    It is redrawn a few times a second, whether an update takes a millisecond or a minute.
    """

    def __init__(self) -> None:
        super().__init__(leave=True)
        self._drawn = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # A resumed run goes on in the middle of the epoch, so that Lightning does not set the bar up.
        self.train_progress_bar.total = trainer.max_steps
        self.train_progress_bar.initial = trainer.global_step

    def _should_update(self, current: int, total: int | float) -> bool:
        if not self.is_enabled or (current != total and time.monotonic() - self._drawn < 0.25):
            return False
        self._drawn = time.monotonic()
        return True

    @property
    def total_train_batches(self) -> int | float:
        return self.trainer.max_steps


class EndlessEpoch(Callback):
    """Validate after the last update too, wherever it falls, and keep the loggers' count of updates right."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        # Resumed from a checkpoint that was written during validation, Lightning counts one too few.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint callback that finds its files again where the run's folder was moved.

    It also keeps count where a resumed run keeps more or fewer of the best than before, which Lightning does not.
    """

    @cached_property
    def state_key(self) -> str:
        """Its name among the callbacks, which Lightning has it put together before and after everything."""
        return super().state_key

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = ranked(state_dict["best_k_models"], Path(str(self.dirpath)), self.mode)[: self.save_top_k]
        state_dict = state_dict | {"dirpath": self.dirpath, "best_k_models": dict(best)}
        for name in ("best_model_path", "last_model_path"):
            path = Path(str(self.dirpath)) / Path(state_dict[name]).name
            state_dict[name] = str(path) if path.is_file() else ""
        if self.monitor is not None:
            state_dict["best_model_path"], state_dict["best_model_score"] = best[0] if best else ("", None)
            state_dict["kth_best_model_path"], state_dict["kth_value"] = best[-1] if best else ("", None)
        super().load_state_dict(state_dict)


class NoProfiler(PassThroughProfiler):
    """Profiles nothing at no cost: Lightning opens forty sections in every update."""

    _section = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._section


class Cost(Callback):
    """Writes down what the training has cost so far whenever it has been validated, and when it ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started = time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        record_cost(self.directory, trainer.global_step, training=time.perf_counter() - self.started)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        record_cost(self.directory, trainer.global_step, training=time.perf_counter() - self.started)


def set_up_process(options: RunOptions) -> None:
    """What holds for the whole process: its memory, and no warnings that a user can do nothing about."""
    if options.keep_memory:
        keep_freed_memory()
    if not torch.cuda.is_available():
        # Lightning has PyTorch look for the driver again, a few times in each update, in case it is there by then.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Consider setting.*persistent_workers.*",
        ".*`LightningModule.configure_optimizers` returned.*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # results are gathered before they are logged
        ".*directory .* exists and is not empty.*",
        ".*find_unused_parameters=True was specified.*",
        ".*`weights_only` was not set.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def build_trainer(experiment: Experiment, directory: Path | None, metric: str) -> pl.Trainer:
    """The Trainer that runs the experiment and writes into ``directory``, or writes nothing if that is None."""
    options = experiment.options
    quick = options.fast_dev_run or directory is None
    monitor, mode = f"val_{metric}", METRICS[metric].mode
    max_steps = min(options.max_steps, options.limit_train_batches or options.max_steps)
    callbacks: list[Callback] = [EndlessEpoch(), Progress(), RunConfig(experiment.config), LastGoodCheckpoint()]
    if options.track_grad_norm is not None or options.log_gradient_histograms:
        callbacks.append(GradientLog(options.track_grad_norm, options.log_gradient_histograms))
    if directory is not None and not quick:
        place: dict[str, Any] = {"dirpath": directory / "checkpoints", "save_on_train_epoch_end": False}
        keep = max(1, options.ensemble)
        callbacks.append(RunCheckpoint(filename="best-{step}", monitor=monitor, mode=mode, save_top_k=keep, **place))
        # Not save_last=True, which leaves last.ckpt alone when a validation brings nothing better.
        every = options.val_check_interval if options.limit_val_batches == 0 else None
        callbacks.append(
            RunCheckpoint(filename="last", enable_version_counter=False, every_n_train_steps=every, **place)
        )
        callbacks.append(Cost(directory))
    if options.stop_early and options.limit_val_batches != 0:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=options.stop_early, check_on_train_epoch_end=False))
    limits: dict[str, Any] = {
        f"limit_{part}_batches": limit
        for part, limit in (("val", options.limit_val_batches), ("test", options.limit_test_batches))
        if limit is not None
    }
    profiler: Profiler = NoProfiler()
    if options.profile and not quick:
        profiler = SimpleProfiler(dirpath=directory, filename="profile")
    precision: Any = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}.get(options.precision, options.precision)
    return pl.Trainer(
        **processes(experiment),
        **limits,
        precision=precision,
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=options.val_check_interval,
        check_val_every_n_epoch=None,
        log_every_n_steps=options.log_every_n_steps or min(50, max(1, max_steps // 20)),
        logger=loggers(experiment, directory) if directory is not None and not quick else False,
        callbacks=callbacks,
        enable_checkpointing=not quick,
        fast_dev_run=options.fast_dev_run,
        profiler=profiler,
        deterministic=options.deterministic,
        benchmark=not options.deterministic,  # shapes stay, so that a GPU's fastest convolutions are worth a search
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the data module draws each process's share by index
        inference_mode=False,  # evaluation adapts, and inference mode cannot be undone
    )


def processes(experiment: Experiment) -> dict[str, Any]:
    """The Trainer's accelerator, devices and strategy."""
    options = experiment.options
    gpus = gpus_to_use(experiment)
    if gpus and options.num_processes > 1:
        raise BadInput(f"--num_processes={options.num_processes} is for the CPU: add --gpus=0, or leave it out.")
    if not gpus and options.gpus.strip() != "0" and options.accelerator != "cpu":
        print_once("No GPU is used: there is none here that PyTorch can use, so this runs on the CPU.")
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
    """The numbers of the GPUs that ``--gpus`` asks for, of all no more than a meta-batch has tasks; none means the CPU.

    Raises:
        BadInput: it asks for GPUs that are not there.
    """
    options = experiment.options
    there = torch.cuda.device_count()
    everything = min(there, experiment.arguments["data_class"].get("batch_size", there))
    text = options.gpus.strip()
    try:
        if "," in text:
            wanted = [int(part) for part in text.removesuffix(",").split(",")]
        else:
            count = int(text)
            wanted = list(range(everything if count == -1 else count))
            if count < -1:
                raise ValueError
    except ValueError:
        raise BadInput(
            f"--gpus={text} is none of -1 (all), 0 (none), a number of GPUs, or numbers such as 0,3."
        ) from None
    if options.accelerator == "cpu":
        return []
    if missing := [gpu for gpu in wanted if not 0 <= gpu < there]:
        raise BadInput(f"--gpus={text} asks for GPU {missing[0]}, and there are {there} here, counted from 0.")
    if options.accelerator == "gpu" and not wanted:
        raise BadInput(f"--accelerator=gpu asks for a GPU, and --gpus={text} gives none of the {there} that are here.")
    return wanted


def loggers(experiment: Experiment, directory: Path) -> list[Logger]:
    """CSV and TensorBoard always, Weights & Biases on a flag; all under the run's one number."""
    place: dict[str, Any] = {
        "save_dir": str(directory.parent.parent),
        "name": directory.parent.name,
        "version": int(directory.name.removeprefix("version_")),
    }
    found: list[Logger] = [CSVLogger(**place), TensorBoardLogger(**place, default_hp_metric=False)]
    if experiment.options.wandb:
        mode = os.environ.get("WANDB_MODE")
        if mode is None:
            obstacle = wandb_is_out_of_reach()
            mode = "offline" if obstacle else "online"
            if obstacle:
                print_once(f"Weights & Biases: {obstacle}; this run is logged offline, `wandb sync` uploads it later.")
        label = f"{directory.parent.name}-{directory.name}"
        found.append(WandbLogger(project="few_shot", name=label, save_dir=str(directory), mode=mode))
    for logger in found:
        logger.log_hyperparams(experiment.config)
    return found


def wandb_is_out_of_reach() -> str | None:
    """Why Weights & Biases can only be used offline, or None. With a key and no network it would block for minutes."""
    import wandb

    try:
        key = wandb.api.api_key
    except wandb.errors.UsageError:
        key = None
    if not key:
        return "there is no API key (run `wandb login`)"
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return None  # a plain connection would say nothing of the one through the proxy
    address = urlsplit(wandb.setup().settings.base_url)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()
    except OSError:
        return f"{address.hostname} cannot be reached"
    return None


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks, which PyTorch asks for again at once; elsewhere do nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
        mallopt(trim_threshold, -1)  # never trim the heap
        mallopt(mmap_max, 0)  # take large blocks from the heap too
