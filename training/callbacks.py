"""What a run adds to Lightning's loop: progress, an epoch without end, checkpoints, its record, gradient logs."""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from few_shot.errors import TrainingDiverged
from few_shot.private_parts import correct_update_count
from training.run_folder import RunFolder, ranked


class Progress(TQDMProgressBar):
    """A bar over all outer updates, on stderr.

    Training is one endless epoch, whose length Lightning does not know. The bar is redrawn four times a second, whether
    an update takes a millisecond or a minute.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drawn = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # A resumed run goes on in the middle of the epoch, so that Lightning does not set the bar up.
        self.train_progress_bar.total = trainer.max_steps
        self.train_progress_bar.initial = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer, *_)
        self.train_progress_bar.set_description(self.train_description)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._is_due(batch_idx + 1 == trainer.max_steps):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._is_due(batch_idx + 1 == self.val_progress_bar.total):
            super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._is_due(batch_idx + 1 == self.test_progress_bar.total):
            super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def _is_due(self, last: bool) -> bool:
        if not last and time.monotonic() - self._drawn < 0.25:
            return False
        self._drawn = time.monotonic()
        return True

    @property
    def total_train_batches(self) -> int | float:
        return self.trainer.max_steps

    # Lightning's bars write to what is sys.stdout when they are made.

    def init_train_tqdm(self) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_train_tqdm()

    def init_validation_tqdm(self) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_validation_tqdm()

    def init_test_tqdm(self) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            return super().init_test_tqdm()


class EndlessEpoch(Callback):
    """Validate after the last update too, wherever it falls, and keep the loggers' count of updates right."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        correct_update_count(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint callback that finds its files again where the run's folder was moved.

    It also keeps count where a resumed run keeps more or fewer of the best than before, which Lightning does not.
    """

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


class RunRecord(Callback):
    """Keeps the run's record: its cost so far, its flags in the checkpoints, and where it stands if it diverges."""

    def __init__(self, folder: RunFolder, config: dict[str, Any]) -> None:
        self.folder, self.config = folder, config
        self.started = time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._add_cost(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._add_cost(trainer)

    def _add_cost(self, trainer: pl.Trainer) -> None:
        self.folder.add_cost(trainer.global_step, training=time.perf_counter() - self.started)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, TrainingDiverged):
            exception.add_note(self.folder.where_it_stands())


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
