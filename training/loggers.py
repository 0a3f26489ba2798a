"""Where a run's numbers go: metrics.csv and TensorBoard always, Weights & Biases on a flag."""

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from training.experiment import Experiment
from training.run_folder import RunFolder
from training.terminal import is_first_process, say


class MetricsFile(Logger):
    """The run's ``metrics.csv``, which a resumed run goes on with."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder

    @property
    def name(self) -> str:
        return self.folder.path.parent.name

    @property
    def version(self) -> int:
        return self.folder.number

    @property
    def log_dir(self) -> str:
        return str(self.folder.path)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.folder.append_metrics([{"step": step, **metrics}])

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """They are in ``config.yaml``."""


class TensorBoardFile(TensorBoardLogger):
    """One event file for the training, the test and the pictures; no ``hparams.yaml``: there is ``config.yaml``."""

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.experiment.flush()  # not closed, or the next number would open another file

    @rank_zero_only
    def close(self) -> None:
        self.experiment.close()


def make_loggers(experiment: Experiment, folder: RunFolder, resumed_at: int | None) -> list[Logger]:
    """All loggers of a run.

    Args:
        resumed_at: outer updates that the run had done when it was resumed; None for a new run.
    """
    tensorboard = TensorBoardFile(
        save_dir=str(folder.path.parent.parent),
        name=folder.path.parent.name,
        version=folder.number,
        default_hp_metric=False,
        purge_step=resumed_at,  # what was logged of later updates is hidden: they are done again
    )
    found: list[Logger] = [MetricsFile(folder), tensorboard]
    if experiment.options.wandb:
        found.append(_wandb_logger(folder))
    for logger in found:
        logger.log_hyperparams(experiment.config)
    return found


def _wandb_logger(folder: RunFolder) -> WandbLogger:
    """A logger to Weights & Biases, or into the run's folder if that cannot be reached."""
    import wandb

    if not is_first_process():
        return WandbLogger()
    mode: Any = os.environ.get("WANDB_MODE")
    if mode is None:
        obstacle = wandb_is_out_of_reach()
        mode = "offline" if obstacle else "online"
        if obstacle:
            say(f"Weights & Biases: {obstacle}; this run is logged offline, `wandb sync` uploads it later.")
    label = f"{folder.path.parent.name}-{folder.path.name}"
    # Not by Lightning, which passes an argument that Weights & Biases warns about.
    run = wandb.init(project="few_shot", name=label, dir=str(folder.path), mode=mode)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run)


def log_picture(loggers: list[Logger], name: str, path: Path, step: int) -> None:
    """Hand a picture to the loggers that take one."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)])


def close(loggers: list[Logger]) -> None:
    """Close what is still open, when nothing more will be logged."""
    for logger in loggers:
        if isinstance(logger, TensorBoardFile):
            logger.close()
        elif isinstance(logger, WandbLogger):
            with contextlib.redirect_stdout(sys.stderr):  # what it says then is no result
                logger.experiment.finish()


def wandb_is_out_of_reach() -> str | None:
    """Why Weights & Biases can only be used offline, or None. With a key and no network it would block for minutes."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        return "there is no API key (run `wandb login`)"
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return None  # a plain connection would say nothing of the one through the proxy
    address = urlsplit(wandb.setup().settings.base_url)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=3).close()
    except OSError:
        return f"{address.hostname} cannot be reached"
    return None
