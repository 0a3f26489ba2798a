"""Pictures of a run: its learning curves, and how a model adapts to one task.

python training/visualize.py --checkpoint logs/Sinusoid-LitMAML/version_0/checkpoints/last.ckpt --episode=3
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

from few_shot.data import Sinusoid
from few_shot.errors import BadInput
from few_shot.metrics import METRICS
from training.command_line import clear_errors, parse
from training.record import load_weights


@dataclass
class PictureOptions:
    """What to draw.

    Args:
        checkpoint: the checkpoint; its run's settings hold unless a flag says otherwise.
        episode: number of the test task.
        output: the picture.
    """

    checkpoint: str
    episode: int = 0
    output: str = "fit.png"


def draw_curves(directory: Path) -> Path | None:
    """Draw the training and validation curves in a run's folder to ``curves.png``; None if nothing was logged."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for path in [*sorted(directory.glob("metrics-part*.csv")), directory / "metrics.csv"]:
        if not path.exists():
            continue
        with path.open() as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if name.startswith(("train_", "val_")) and value:
                        curves[name].append((int(row["step"]) + 1, float(value)))
    quantities = [q for q in ("loss", *METRICS) if f"train_{q}" in curves or f"val_{q}" in curves]
    if not quantities:
        return None
    figure, axes = plt.subplots(1, len(quantities), figsize=(6 * len(quantities), 4), squeeze=False)
    for axis, quantity in zip(axes[0], quantities, strict=True):
        for part, colour in (("train", "tab:blue"), ("val", "tab:orange")):
            if not (points := curves.get(f"{part}_{quantity}")):
                continue
            steps, values = np.array(points).T
            axis.plot(
                steps, values, color=colour, alpha=0.3 if part == "train" else 1, lw=1 if part == "train" else 1.5
            )
            if part == "train":
                axis.plot(*_smooth(steps, values), color=colour, label="train (one meta-batch; running mean)")
            else:
                axis.plot(steps, values, "o", ms=3, color=colour, label="validation")
            ci95 = dict(curves.get(f"{part}_{quantity}_ci95", []))
            if part == "val" and set(steps) <= set(ci95):
                margin = np.array([ci95[int(step)] for step in steps])
                axis.fill_between(steps, values - margin, values + margin, color=colour, alpha=0.2, label="95 % CI")
        metric = METRICS.get(quantity)
        if metric is None or metric.mode == "min":
            axis.set_yscale("log")
        axis.set(xlabel="outer updates", ylabel=metric.description if metric else quantity)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(directory.parent.name)
    return _save(figure, directory / "curves.png")


def _smooth(steps: np.ndarray, values: np.ndarray, points: int = 20) -> tuple[np.ndarray, np.ndarray]:
    window = max(1, len(values) // points)
    return steps[window - 1 :], np.convolve(values, np.ones(window) / window, mode="valid")


def can_draw_fit(data: Any) -> bool:
    """Whether a task of the data module is a curve."""
    return isinstance(data, Sinusoid)


def draw_fit(
    lit_model: Any, data: Sinusoid, path: Path, episode: int = 0, shown_steps: tuple[int, ...] = (0, 1, 10)
) -> Path:
    """Draw one unseen sine wave: the truth, the support points, and the prediction after some inner steps."""
    index = np.array([episode])
    dtype, device = lit_model.dtype, lit_model.device
    batch = data.prepare(data.draw("test", data.eval_seed, index), "test", dtype)
    batch = type(batch)(*(tensor.to(device) for tensor in batch))
    amplitude, phase = data.waves("test", data.eval_seed, index)
    x = torch.linspace(-5, 5, 200, dtype=dtype, device=device)[None, :, None]
    figure, axis = plt.subplots(figsize=(7, 4.5))
    axis.plot(
        x[0, :, 0].cpu(), amplitude.item() * np.sin(x[0, :, 0].cpu().numpy() - phase.item()), "k", lw=2, label="truth"
    )
    axis.plot(
        batch.support_x[0, :, 0].cpu(), batch.support_y[0, :, 0].cpu(), "r^", ms=8, label="support points", zorder=5
    )
    styles = {0: ("tab:gray", ":"), 1: ("tab:blue", "--"), 10: ("tab:green", "-")}
    with torch.no_grad():
        predictions = lit_model.predictions_of(x)
        for step, fast_weights in enumerate(lit_model.adapt(batch.support_x, batch.support_y, max(shown_steps))):
            if step in shown_steps:
                colour, line = styles.get(step, ("tab:purple", "-."))
                label = "before adaptation" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"
                axis.plot(x[0, :, 0].cpu(), predictions(fast_weights)[0, :, 0].cpu(), line, color=colour, label=label)
    axis.set(xlabel="x", ylabel="y", title=f"Test task {episode}: {data.support_samples} support points")
    axis.grid(alpha=0.3)
    axis.legend()
    return _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def log_picture(loggers: list[Logger], name: str, path: Path, step: int) -> None:
    """Hand a picture to the loggers that take one."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, plt.imread(path)[:, :, :3], step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)])


def main(argv: Sequence[str] | None = None) -> None:
    """Draw how a checkpoint's model adapts to one test task."""
    with clear_errors():
        experiment = parse(argv, "Draw how a model adapts to one task.", PictureOptions, settings_from="checkpoint")
        data, lit_model = experiment.build(test_split="test")
        if not can_draw_fit(data):
            raise BadInput(f"--checkpoint={experiment.extra['checkpoint']} is no sinusoid run: only curves are drawn.")
        load_weights(lit_model, experiment.extra["checkpoint"], "checkpoint")
        output = Path(experiment.extra["output"])
        output.parent.mkdir(parents=True, exist_ok=True)
        print(draw_fit(lit_model, data, output, experiment.extra["episode"]))


if __name__ == "__main__":
    main()
