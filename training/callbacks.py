"""What a run adds to Lightning's loop: progress, an epoch without end, its record, noise, gradient logs."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, TQDMProgressBar

from few_shot.private_parts import correct_update_count
from training.run_folder import RunFolder
from training.stopping import Stopped


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

    def on_exception(self, *_: Any) -> None:
        """End the lines of the bars, before something is said."""
        for split in ("val", "test", "train"):  # from below
            with contextlib.suppress(TypeError):  # there is no such bar yet
                getattr(self, f"{split}_progress_bar").close()

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

    def on_fit_end(self, trainer: pl.Trainer, *_: Any) -> None:
        correct_update_count(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


class RunRecord(Callback):
    """Keeps the run's record: what it is, its cost so far, and its flags in the checkpoints.

    A resumed run writes nothing before it has done something: if it fails, all files of the run are what they were.

    Args:
        record: writes what the run is.
    """

    def __init__(self, folder: RunFolder, config: dict[str, Any], record: Callable[[], None], resumed: bool) -> None:
        self.folder, self.config, self.record, self.resumed = folder, config, record, resumed
        self.started = time.perf_counter()
        self._begun = False

    def _begin(self, trainer: pl.Trainer) -> None:
        if not self._begun:
            self._begun = True
            self.record()
            for logger in trainer.loggers:
                logger.begin()  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if not self.resumed:
            self._begin(trainer)

    def on_train_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        self._begin(trainer)  # loss and gradient are finite

    def on_test_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._begin(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._add_cost(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._add_cost(trainer)

    def _add_cost(self, trainer: pl.Trainer) -> None:
        self.folder.add_cost(trainer.global_step, training=time.perf_counter() - self.started)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, Stopped) and exception.agreed and self._begun and trainer.training:
            self._add_cost(trainer)


class Noise(Callback):
    """Starts random numbers, dropout's for one, anew for each update: a resumed run draws those it would have drawn."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        number = hash((self.seed, trainer.global_step, trainer.global_rank)) & 0xFFFF_FFFF
        torch.default_generator.manual_seed(number)  # torch.manual_seed takes a hundred times as long
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.manual_seed(number)


class GradientLog(Callback):
    """Logs the outer gradient before it is clipped, whenever the training loss is logged.

    Args:
        norm: order of the norm to log, over all that is trained; None for none.
        histograms: whether to log a histogram of the gradient of each of the model's parameters.
    """

    def __init__(self, norm: float | None, histograms: bool) -> None:
        self.norm, self.histograms = norm, histograms
        self._due = False

    def on_train_batch_start(self, trainer: Any, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self._due = (batch_idx + 1) % trainer.log_every_n_steps == 0 or trainer.global_step + 1 == trainer.max_steps

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if not self._due:
            return
        all_gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.norm is not None and all_gradients:  # a skipped update has none
            pl_module.log("grad_norm", torch.nn.utils.get_total_norm(all_gradients, norm_type=self.norm))
        if self.histograms:
            gradients = {name: p.grad for name, p in pl_module.model.named_parameters() if p.grad is not None}
            for logger in trainer.loggers:
                logger.log_histograms({f"gradients/{name}": g for name, g in gradients.items()}, trainer.global_step)


class Patience(EarlyStopping):
    """Stops a training when so many validations in a row are no better than the best one so far.

    A resumed run has the patience that it is resumed with. A result that is not a number is no better, and no end.

    Args:
        anew: whether a resumed run forgets the results before, which are of another validation.
    """

    def __init__(self, monitor: str, mode: str, patience: int, anew: bool = False) -> None:
        super().__init__(monitor, mode=mode, patience=patience, check_finite=False, check_on_train_epoch_end=False)
        self.asked_for, self.anew = patience, anew

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.anew:
            super().load_state_dict(state_dict | {"patience": self.asked_for})
