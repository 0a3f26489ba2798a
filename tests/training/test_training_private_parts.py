"""The private parts of other packages that training/ relies on are still there, and still do what they are used for."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger

from training.private_parts import correct_update_count


class Logging(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = self.step(batch)
        self.log("loss", loss)
        return loss


class Miscount(Callback):
    """Counts as Lightning would after a bad resume; corrects it if told to."""

    def __init__(self, correct):
        self.correct = correct

    def on_train_batch_start(self, trainer, *_):
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step + 40
        if self.correct:
            correct_update_count(trainer)


@pytest.mark.parametrize(("correct", "steps"), [(False, [40, 41]), (True, [0, 1])])
def test_lightning_numbers_logged_rows_by_the_count_that_is_corrected(correct, steps, tmp_path):
    logger = CSVLogger(str(tmp_path), name="", version="")
    pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=logger,
        callbacks=[Miscount(correct)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(Logging(), torch.utils.data.DataLoader(torch.rand(4, 32)))
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("step")
    assert [int(line.split(",")[column]) for line in lines[1:]] == steps
