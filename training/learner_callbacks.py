"""What a run adds to the training: gradient logs, its config in checkpoints, the last good checkpoint's name."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from few_shot.errors import TrainingDiverged


class GradientLog(Callback):
    """Logs the model's outer gradient before it is clipped, whenever the training loss is logged.

    Args:
        norm: order of the norm to log; None for none.
        histograms: whether to log a histogram of each parameter's gradient.
    """

    def __init__(self, norm: float | None, histograms: bool) -> None:
        self.norm, self.histograms = norm, histograms
        self._due = False

    def on_train_batch_start(self, trainer: Any, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self._due = (batch_idx + 1) % trainer.log_every_n_steps == 0

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if not self._due:
            return
        gradients = {name: p.grad for name, p in pl_module.model.named_parameters() if p.grad is not None}
        if self.norm is not None:
            pl_module.log("grad_norm", torch.nn.utils.get_total_norm(list(gradients.values()), norm_type=self.norm))
        if not self.histograms:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, gradient in gradients.items():
                    logger.experiment.add_histogram(f"gradients/{name}", gradient.float(), trainer.global_step)
            elif isinstance(logger, WandbLogger):
                import wandb

                values = {f"gradients/{name}": wandb.Histogram(g.flatten().tolist()) for name, g in gradients.items()}
                logger.experiment.log(values | {"trainer/global_step": trainer.global_step})


class RunConfig(Callback):
    """Keeps the run's resolved flags in its checkpoints."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config


class LastGoodCheckpoint(Callback):
    """Says which checkpoint is left when a training has diverged."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, TrainingDiverged):
            last = trainer.checkpoint_callbacks[-1].best_model_path if trainer.checkpoint_callbacks else ""
            exception.add_note(f"The last good checkpoint is {last}." if last else "There is no checkpoint yet.")
