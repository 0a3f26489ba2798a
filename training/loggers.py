"""Where a run's numbers go: metrics.csv and TensorBoard always, Weights & Biases on a flag."""

import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger
from torch import Tensor

from training.experiment import Experiment
from training.run_folder import RunFolder
from training.terminal import is_first_process, say


class RunLogger(Logger):
    """A logger of a run: begins when it is told to, and takes pictures and histograms if it can show them."""

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

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """They are in ``config.yaml``."""

    def begin(self) -> None:
        """Open what is written to; nothing was written before."""

    def log_histograms(self, values: dict[str, Tensor], step: int) -> None:
        """Log how the elements of tensors are distributed."""

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Log a PNG file."""

    def close(self) -> None:
        """Close what is still open, when nothing more will be logged."""


class MetricsFile(RunLogger):
    """The run's ``metrics.csv``, which a resumed run goes on with."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name != "epoch"}  # there is one, without an end
        self.folder.append_metrics([{"step": step, **values}])


class TensorBoardFile(RunLogger):
    """One event file for the training, the test and the pictures.

    Args:
        resumed_at: outer updates that the run had done when it was resumed; None for a new run. What was logged of
            later updates is hidden: they are done again.
    """

    def __init__(self, folder: RunFolder, resumed_at: int | None) -> None:
        super().__init__(folder)
        self.resumed_at = resumed_at
        self.writer: Any = None

    def begin(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if is_first_process():
            self.writer = SummaryWriter(self.log_dir, purge_step=self.resumed_at)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, step)

    def log_histograms(self, values: dict[str, Tensor], step: int) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_histogram(name, value.float(), step)

    def log_picture(self, name: str, path: Path, step: int) -> None:
        if self.writer is not None:
            self.writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def save(self) -> None:
        if self.writer is not None:
            self.writer.flush()

    def finalize(self, status: str) -> None:
        self.save()  # not closed, or the next number would open another file

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class WandbRun(RunLogger):
    """Weights & Biases, or a folder of the run if that cannot be reached. If it fails, the run goes on without it."""

    def __init__(self, folder: RunFolder, config: dict[str, Any]) -> None:
        super().__init__(folder)
        self.config = config
        self.run: Any = None

    def begin(self) -> None:
        if is_first_process():
            self._try(self._begin)

    def _begin(self) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE")
        if mode is None:
            obstacle = wandb_is_out_of_reach()
            mode = "offline" if obstacle else "online"
            if obstacle:
                say(f"Weights & Biases: {obstacle}; this run is logged offline, `wandb sync` uploads it later.")
        label = f"{self.name}-{self.folder.path.name}"
        before = self._id_before() if mode == "online" else None
        self.run = wandb.init(
            project="few_shot",
            name=label,
            dir=str(self.folder.path),
            mode=mode,
            config=self.config,
            id=before,
            resume="allow" if before else None,
            reinit="finish_previous",  # of a training before in the same process, which has failed
        )
        self.run.define_metric("trainer/global_step")
        self.run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    def _id_before(self) -> str | None:
        """The id of the run there that a resumed run goes on with; None for a new run, or one that was offline."""
        names = sorted(path.name for path in (self.folder.path / "wandb").glob("run-*"))
        found = [re.fullmatch(r"run-\d{8}_\d{6}-(.+)", name) for name in names]  # with the time of their start
        return next((match[1] for match in reversed(found) if match), None)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._log(lambda: metrics, step)

    def log_histograms(self, values: dict[str, Tensor], step: int) -> None:
        import wandb

        self._log(lambda: {name: wandb.Histogram(value.flatten().tolist()) for name, value in values.items()}, step)

    def log_picture(self, name: str, path: Path, step: int) -> None:
        import wandb

        self._log(lambda: {name: wandb.Image(str(path))}, step)

    def close(self) -> None:
        if self.run is not None:
            with contextlib.redirect_stdout(sys.stderr):  # what it says then is no result
                self._try(self.run.finish)

    def _log(self, values: Callable[[], dict[str, Any]], step: int | None) -> None:
        if self.run is not None:
            self._try(lambda: self.run.log(values() | {"trainer/global_step": step}))

    def _try(self, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            import wandb

            self.run = None
            with contextlib.suppress(Exception):  # or it would try again at the program's end, with a traceback
                wandb.teardown()
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            say(f"Weights & Biases has failed ({reason}): the run goes on without it.")


def make_loggers(experiment: Experiment, folder: RunFolder, resumed_at: int | None) -> list[RunLogger]:
    """All loggers of a run.

    Args:
        resumed_at: outer updates that the run had done when it was resumed; None for a new run.
    """
    wandb = [WandbRun(folder, experiment.config)] if experiment.options.wandb else []
    return [MetricsFile(folder), TensorBoardFile(folder, resumed_at), *wandb]


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
