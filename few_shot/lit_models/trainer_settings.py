"""Settings of a Trainer: those of one device, and those that cannot work here, refused when a run starts."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import MPSAccelerator
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn

from few_shot.errors import BadInput


def one_device() -> dict[str, Any]:
    """A Trainer's arguments for one device: a GPU if there is one, but not a Mac's, which has no float64."""
    return {"devices": 1, "accelerator": "cpu" if torch.backends.mps.is_available() else "auto"}


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
