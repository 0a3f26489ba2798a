"""What reaches into private parts of Lightning, and why. A test of each fails when the part is gone."""

import pytorch_lightning as pl


def correct_update_count(trainer: pl.Trainer) -> None:
    """Set the count by which loggers number their rows, at the beginning of an update.

    Correctness: Lightning counts one too few after it was resumed from a checkpoint written during validation.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
