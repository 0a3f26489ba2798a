"""What a run adds to Lightning's loop: a progress bar, the end of the endless epoch, checkpoints, the cost."""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar

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


class Cost(Callback):
    """Writes down what the training has cost so far: after each validation, and at the end."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.started = time.perf_counter()

    def on_train_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._add(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._add(trainer)

    def _add(self, trainer: pl.Trainer) -> None:
        self.folder.add_cost(trainer.global_step, training=time.perf_counter() - self.started)
