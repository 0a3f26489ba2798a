"""What reaches into private parts of Lightning, and why; a test for each fails when the part is gone."""

import os
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import PassThroughProfiler


def correct_update_count(trainer: pl.Trainer) -> None:
    """Set the count by which loggers number their rows, at the beginning of an update.

    Correctness: Lightning counts one too few after it was resumed from a checkpoint written during validation.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def do_not_look_for_gpus_again() -> None:
    """Stop PyTorch from asking the NVIDIA driver for GPUs in each update, where there are none."""
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # set by Lightning when it is imported


class NoProfiler(PassThroughProfiler):
    """Profiles nothing at no cost: Lightning opens forty sections in every update."""

    _section = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._section
