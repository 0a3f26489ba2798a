"""A run's checkpoints: written whole, the best by validation and the last; and the stop between two updates."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from few_shot.checkpoint import as_bytes
from few_shot.errors import BadInput
from few_shot.files import shortened
from few_shot.private_parts import between_updates, came_from_restoring
from few_shot.whole_files import write_whole
from training import stopping
from training.run_folder import RunFolder, make_folder, ranked


class DamagedState(BadInput):
    """A checkpoint from which a training cannot go on."""


@contextmanager
def refusing_a_damaged_state(path: str | None) -> Iterator[None]:
    """Say which checkpoint it is whose state of the training cannot be restored in here.

    Args:
        path: the checkpoint that is resumed, or None.

    Raises:
        DamagedState: it cannot be restored.
    """
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if path is None or isinstance(error, BadInput) or not came_from_restoring(error):
            raise
        why = f"{type(error).__name__}: {shortened(' '.join(str(error).split()))}"
        raise DamagedState(
            f"--resume={path} cannot be continued: its state of the training is damaged ({why}). "
            "Name another checkpoint of the run."
        ) from error


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint whole, in its own folder. Lightning's writer goes through ``TMPDIR``.

    A checkpoint that is to be removed is kept until the next one is there, because the last one names it till then.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, bytes] = {}
        self._removed: list[str] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it; or, with ``storage_options="in memory"``, keep it for :meth:`write_kept`."""
        if storage_options == "in memory":
            self._kept = {path: as_bytes(checkpoint)}
            return
        _write(path, as_bytes(checkpoint))
        while self._removed:
            Path(self._removed.pop()).unlink(missing_ok=True)

    def write_kept(self) -> None:
        """Write the checkpoint that was kept last."""
        for path, content in self._kept.items():
            _write(path, content)

    def remove_checkpoint(self, path: Any) -> None:
        self._removed.append(str(path))


def _write(path: Any, content: bytes) -> None:
    make_folder(Path(path).parent, "log_dir")
    write_whole(path, content)


class RunCheckpoint(ModelCheckpoint):
    """The best checkpoints by validation, found again where the run's folder was moved.

    It also keeps count where a resumed run keeps more or fewer of the best than before, which Lightning does not.

    Args:
        keep: how many.
        anew: whether a resumed run forgets which were the best, by another validation.
    """

    def __init__(self, folder: RunFolder, monitor: str, mode: str, keep: int, anew: bool = False) -> None:
        self.anew = anew
        super().__init__(
            dirpath=folder.checkpoints,
            filename="best-{step}",
            monitor=monitor,
            mode=mode,
            save_top_k=keep,
            save_on_train_epoch_end=False,
            enable_version_counter=False,  # a file that is there already is of an update that was done again
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        scores = {} if self.anew else state_dict["best_k_models"]
        best = ranked(scores, Path(str(self.dirpath)), self.mode)[: self.save_top_k]
        state_dict = state_dict | {"dirpath": self.dirpath, "best_k_models": dict(best)}
        path = Path(str(self.dirpath)) / Path(state_dict["last_model_path"]).name
        state_dict["last_model_path"] = str(path) if path.is_file() else ""
        state_dict["best_model_path"], state_dict["best_model_score"] = best[0] if best else ("", None)
        state_dict["kth_best_model_path"], state_dict["kth_value"] = best[-1] if best else ("", None)
        super().load_state_dict(state_dict)


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` after each validation, or every so many updates without one; and when the run is stopped.

    A run that is stopped in training finishes the update. One that is stopped in a validation goes on from before the
    update that the validation follows, so that a resumed run does both again, as if it had never stopped.

    Args:
        every: outer updates from one validation to the next, or from one checkpoint to the next where none validates.
    """

    def __init__(self, folder: RunFolder, every: int) -> None:
        self.folder, self.every = folder, every
        self._batches = 0  # of the evaluation under way, in the process that has the fewest
        self._stopped_early = False

    # When it is written.

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._resumed_at = trainer.global_step
        stopping.note(True)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        done = trainer.global_step
        if signum := _told_to_stop(trainer):
            if done > self._resumed_at or not self.folder.last_checkpoint.is_file():  # or it would replace a later one
                self._save(trainer)
            raise stopping.Stopped(signum, agreed=True)
        validates = bool(trainer.enable_validation)
        if validates and ((done + 1) % self.every == 0 or done + 1 == trainer.max_steps):
            self._save(trainer, "in memory")
        elif not validates and done % self.every == 0 and done > self._resumed_at:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._stopped_early = trainer.should_stop and trainer.global_step < trainer.max_steps
        self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.enable_validation:
            self._save(trainer)
        stopping.act_at_once()

    def _save(self, trainer: pl.Trainer, where: str | None = None) -> None:
        if trainer.is_global_zero and where is None:
            self.folder.sync_metrics()
        with between_updates(trainer):
            trainer.save_checkpoint(self.folder.last_checkpoint, storage_options=where)

    def state_dict(self) -> dict[str, Any]:
        return {"stopped_early": self._stopped_early}

    # A stop in a validation or a test. A process may have a batch more than another: then they cannot agree.

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._batches = _fewest(trainer, trainer.num_val_batches)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if batch_idx < self._batches and (signum := _told_to_stop(trainer)):
            if trainer.is_global_zero:
                trainer.strategy.checkpoint_io.write_kept()
            trainer.strategy.barrier("stopped")
            raise stopping.Stopped(signum, agreed=True)

    def on_test_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._batches = _fewest(trainer, trainer.num_test_batches)
        stopping.note(True)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if batch_idx < self._batches and (signum := _told_to_stop(trainer)):
            raise stopping.Stopped(signum, agreed=True)

    def on_test_end(self, *_: Any) -> None:
        stopping.act_at_once()

    def on_exception(self, *_: Any) -> None:
        stopping.note(False)


def _told_to_stop(trainer: pl.Trainer) -> int:
    """The signal that any process has received; 0 is none. All processes must ask at the same point."""
    return _over_processes(stopping.received(), "MAX", trainer)


def _fewest(trainer: pl.Trainer, batches: Any) -> int:
    """The least number of batches that a process has in an evaluation."""
    return _over_processes(int(sum(batches)), "MIN", trainer)


def _over_processes(value: int, operation: str, trainer: pl.Trainer) -> int:
    if trainer.world_size == 1:
        return value
    found = torch.tensor(value, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(found, getattr(torch.distributed.ReduceOp, operation))
    return int(found)
