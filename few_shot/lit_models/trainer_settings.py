"""Settings of a Trainer: those of one device, and those that cannot work here, refused when a run starts."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import MPSAccelerator
from pytorch_lightning.callbacks import EarlyStopping, Timer
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from few_shot.errors import BadInput
from few_shot.private_parts import trainer_of, trains_in_copies


def one_device() -> dict[str, Any]:
    """A Trainer's arguments for one device: a GPU if there is one, but not a Mac's, which has no float64."""
    return {"devices": 1, "accelerator": "cpu" if torch.backends.mps.is_available() else "auto"}


@contextmanager
def apart_from_a_training(lit_model: Any, data: Any) -> Iterator[None]:
    """Another Trainer is at work in here, and then the one before again: a callback of a training may evaluate."""
    hooked = [one for one in (lit_model, data) if isinstance(one, pl.LightningModule | pl.LightningDataModule)]
    before, shots, device = [trainer_of(one) for one in hooked], lit_model.shots, lit_model.device
    try:
        yield
    finally:
        for one, trainer in zip(hooked, before, strict=True):
            one.trainer = trainer
        lit_model.shots = shots
        lit_model.to(device)


def check_trainer(trainer: pl.Trainer) -> None:
    """Raise BadInput, in one sentence, if the Trainer's settings and this package's algorithms exclude each other."""
    if isinstance(trainer.accelerator, MPSAccelerator):
        raise BadInput(
            "Trainer(accelerator='mps'), which is the default on a Mac, has no float64, which is needed here: use "
            "accelerator='cpu'."
        )
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        raise BadInput(
            f"Trainer(strategy={type(trainer.strategy).__name__}) splits the model's weights over processes, and the "
            "inner loop needs them whole: use strategy='ddp'."
        )
    if trainer.state.fn != TrainerFn.FITTING:
        return
    if trainer.gradient_clip_val:
        value = trainer.gradient_clip_val
        raise BadInput(
            f"Trainer(gradient_clip_val={value}) does not reach the outer gradient: give gradient_clip_val={value} "
            "to the algorithm instead."
        )
    if trainer.accumulate_grad_batches != 1:
        raise BadInput(
            f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) cannot work: raise the data module's "
            "batch_size instead, and lower the algorithm's tasks_at_once if memory is short."
        )
    if overfit := getattr(trainer, "overfit_batches", 0):
        raise BadInput(
            f"Trainer(overfit_batches={overfit}) cannot work: there is no last batch of episodes; "
            "to see the same tasks again, write a data module that draws them."
        )
    if trainer.precision == "16-mixed":
        raise BadInput(
            "Trainer(precision='16-mixed') scales the loss, and the inner gradients would not fit: use 'bf16-mixed'."
        )
    for name in ("limit_train_batches", "val_check_interval"):
        value = getattr(trainer, name)
        if isinstance(value, float) and value != 1.0:
            raise BadInput(
                f"Trainer({name}={value}) is a share of an epoch, which has no end here: give a number of updates."
            )


def refuse_copies(trainer: pl.Trainer) -> None:
    """Raise BadInput if the Trainer would train copies of a learner, which stays as it is but for its weights."""
    if trains_in_copies(trainer):
        raise BadInput(
            "The Trainer starts its processes as copies of this one (ddp_spawn, ddp_fork, ddp_notebook), and a learner "
            "would not come to know what it was trained on: use strategy='ddp' in a script, or devices=1."
        )


def check_end(trainer: pl.Trainer) -> None:
    """Raise BadInput if the training would never end; warn if it would never validate. To be called when it starts."""
    endless = trainer.num_training_batches == math.inf
    validates = trainer.enable_validation and trainer.val_check_batch != math.inf
    ends = (Timer, EarlyStopping) if validates else Timer  # early stopping goes by validations
    stops = trainer.max_steps != -1 or any(isinstance(c, ends) for c in trainer.callbacks)  # type: ignore[attr-defined]
    if endless and not stops and (trainer.max_epochs or 0) > 0:
        raise BadInput(
            f"Trainer(max_epochs={trainer.max_epochs}) would train for ever: an epoch of episodes has no end here. "
            "Give max_steps, a number of updates."
        )
    if trainer.enable_validation and trainer.val_check_batch == math.inf:
        rank_zero_warn(
            "There will be no validation: an epoch of episodes has no end here. Give the Trainer val_check_interval, a "
            "number of updates, or limit_val_batches=0."
        )


def step_schedulers(schedulers: Any) -> None:
    """Step the schedulers of a configure_optimizers that a subclass wrote: Lightning does not, here."""
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if isinstance(scheduler, ReduceLROnPlateau):
            raise BadInput("ReduceLROnPlateau needs the result of a validation: step it in a callback.")
        if scheduler is not None:
            scheduler.step()
