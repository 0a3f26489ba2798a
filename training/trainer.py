"""Lightning's Trainer for an experiment."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import SimpleProfiler

from few_shot.metrics import METRICS
from few_shot.private_parts import leave_stopping_to_others
from training.callbacks import EndlessEpoch, GradientLog, Noise, Patience, Progress
from training.checkpoints import LastCheckpoint, RunCheckpoint, WholeCheckpoints
from training.devices import processes
from training.experiment import Experiment
from training.loggers import make_loggers
from training.run_folder import RunFolder
from training.world import World


def build_trainer(
    experiment: Experiment,
    world: World,
    folder: RunFolder | None,
    metric: str,
    resumed_at: int | None = None,
    record: Callback | None = None,
) -> pl.Trainer:
    """The Trainer that runs the experiment.

    Args:
        world: the processes that run it.
        folder: where it writes; None to write nothing.
        metric: what validation scores, by the data module's name.
        resumed_at: outer updates that the run had done when it was resumed; None for a new run.
        record: what keeps the run's record; None for none.
    """
    options = experiment.options
    monitor, mode = f"val_{metric}", METRICS[metric].mode
    anew = bool(experiment.changed_validation)
    max_steps = options.updates
    callbacks: list[Callback] = [*([record] if record else []), EndlessEpoch(), Noise(options.seed), Progress()]
    if options.track_grad_norm is not None or options.log_gradient_histograms:
        callbacks.append(GradientLog(options.track_grad_norm, options.log_gradient_histograms))
    if folder is not None:
        callbacks.append(RunCheckpoint(folder, monitor, mode, max(1, options.ensemble), anew))
        # Not save_last=True, which leaves last.ckpt alone when a validation brings nothing better.
        callbacks.append(LastCheckpoint(folder, options.val_check_interval))
    if options.stop_early and options.limit_val_batches != 0:
        callbacks.append(Patience(monitor, mode, options.stop_early, anew))
    limits: dict[str, Any] = {
        f"limit_{part}_batches": limit
        for part, limit in (("val", options.limit_val_batches), ("test", options.limit_test_batches))
        if limit is not None
    }
    profiler = None
    if options.profile and folder is not None:
        profiler = SimpleProfiler(dirpath=folder.path, filename="profile")
    precision: Any = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}.get(options.precision, options.precision)
    where = processes(experiment, world, (lambda: "") if folder is None else folder.where_it_stands)
    where["plugins"].append(WholeCheckpoints())
    trainer = pl.Trainer(
        **where,
        **limits,
        precision=precision,
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=options.val_check_interval,
        check_val_every_n_epoch=None,
        log_every_n_steps=options.log_every_n_steps or min(50, max(1, max_steps // 20)),
        logger=False if folder is None else make_loggers(experiment, folder, resumed_at),
        callbacks=callbacks,
        enable_checkpointing=folder is not None,
        fast_dev_run=options.fast_dev_run,
        profiler=profiler,
        deterministic=options.deterministic,
        benchmark=not options.deterministic,  # shapes stay, so that a GPU's fastest convolutions are worth a search
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the data module draws each process's share by index
        inference_mode=False,  # evaluation adapts, and inference mode cannot be undone
    )
    leave_stopping_to_others(trainer)
    return trainer
