"""Pictures of a run: its learning curves, and how a model adapts to one task.

python training/visualize.py --checkpoint=logs/Sinusoid-LitMAML/version_0/checkpoints/last.ckpt --episode=3
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

from few_shot.errors import BadInput
from few_shot.metrics import METRICS
from training.command_line import TRAINING_ONLY, clear_errors, parse
from training.experiment import RunOptions, load_weights
from training.run_folder import RunFolder, make_folder
from training.terminal import print_result

#: What a picture of one task does without, of the flags that it could have.
UNUSED = TRAINING_ONLY | {field.name for field in fields(RunOptions)}
UNUSED |= {"batch_size", "test_episodes", "num_workers", "test_inner_loop_steps", "transductive"}


@dataclass
class PictureOptions:
    """What to draw.

    Args:
        checkpoint: checkpoint file of a run. The run's own settings hold, except for flags that are given.
        episode: number of the test task to draw, from 0.
        output: file to draw into; its ending is the format (png, pdf, svg).
    """

    checkpoint: str
    episode: int = 0
    output: str = "fit.png"


def draw_curves(folder: RunFolder) -> Path | None:
    """Draw a run's training and validation curves to ``curves.png`` in its folder; None if nothing was logged."""
    curves = {
        f"{part}_{quantity}": folder.curve(f"{part}_{quantity}")
        for part in ("train", "val")
        for quantity in ("loss", *METRICS)
    }
    quantities = [q for q in ("loss", *METRICS) if curves[f"train_{q}"] or curves[f"val_{q}"]]
    if not quantities:
        return None
    figure, axes = plt.subplots(1, len(quantities), figsize=(6 * len(quantities), 4), squeeze=False)
    for axis, quantity in zip(axes[0], quantities, strict=True):
        for part, colour in (("train", "tab:blue"), ("val", "tab:orange")):
            if not (points := curves[f"{part}_{quantity}"]):
                continue
            updates, values = np.array(points).T
            axis.plot(
                updates, values, color=colour, alpha=0.3 if part == "train" else 1, lw=1 if part == "train" else 1.5
            )
            if part == "train":
                axis.plot(*_smooth(updates, values), color=colour, label="train (one meta-batch; running mean)")
            else:
                axis.plot(updates, values, "o", ms=3, color=colour, label="validation")
            ci95 = dict(folder.curve(f"{part}_{quantity}_ci95"))
            if part == "val" and set(updates) <= set(ci95):
                margin = np.array([ci95[int(update)] for update in updates])
                axis.fill_between(updates, values - margin, values + margin, color=colour, alpha=0.2, label="95 % CI")
        logged = [value for part in ("train", "val") for _, value in curves[f"{part}_{quantity}"]]
        metric = METRICS.get(quantity)
        if (metric is None or metric.mode == "min") and min(logged) > 0:
            axis.set_yscale("log")
        axis.set(xlabel="outer updates", ylabel=metric.description if metric else quantity)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(folder.path.absolute().parent.name)
    return _save(figure, folder.path / "curves.png")


def _smooth(updates: np.ndarray, values: np.ndarray, points: int = 20) -> tuple[np.ndarray, np.ndarray]:
    window = max(1, len(values) // points)
    return updates[window - 1 :], np.convolve(values, np.ones(window) / window, mode="valid")


def can_draw_fit(lit_model: Any, data: Any) -> bool:
    """Whether a task is a curve, one number of one number, and the algorithm has inner steps to show."""
    is_curve = data.metric == "mse" and (tuple(data.input_shape), data.output_size) == ((1,), 1)
    return is_curve and hasattr(lit_model, "adapt")


def truth_of(data: Any) -> Callable[..., np.ndarray] | None:
    """What the tasks' samples were drawn from, if the data module says so: its method ``truth``.

    A class that draws its tasks in its own way, and has inherited ``truth`` from one that draws others, says nothing.
    """
    for cls in type(data).__mro__:
        if "truth" in vars(cls):
            return data.truth
        if "draw" in vars(cls):
            return None
    return None


def draw_fit(
    lit_model: Any, data: Any, path: Path, episode: int = 0, shown_steps: tuple[int, ...] = (0, 1, 10)
) -> Path:
    """Draw one unseen curve: the truth if known, the support points, the predictions after some inner steps."""
    index = np.array([episode])
    dtype, device = lit_model.dtype, lit_model.device
    batch = data.prepare(data.draw("test", data.eval_seed, index), "test", dtype)
    batch = type(batch)(*(tensor.to(device) for tensor in batch))
    points = batch.support_x[0, :, 0].double().cpu().numpy()
    at = np.linspace(min(-5.0, points.min()), max(5.0, points.max()), 200)
    figure, axis = plt.subplots(figsize=(7, 4.5))
    if (truth := truth_of(data)) is not None:
        axis.plot(at, truth("test", data.eval_seed, index, at[None, :, None])[0, :, 0], "k", lw=2, label="truth")
    axis.plot(points, batch.support_y[0, :, 0].cpu(), "r^", ms=8, label="support points", zorder=5)
    styles = {0: ("tab:gray", ":"), 1: ("tab:blue", "--"), 10: ("tab:green", "-")}
    x = torch.as_tensor(at, dtype=dtype, device=device)[None, :, None]
    with torch.no_grad():
        predictions = lit_model.predictions_of(x)
        for step, fast_weights in enumerate(lit_model.adapt(batch.support_x, batch.support_y, max(shown_steps))):
            if step in shown_steps:
                colour, line = styles.get(step, ("tab:purple", "-."))
                label = "before adaptation" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"
                axis.plot(at, predictions(fast_weights)[0, :, 0].cpu(), line, color=colour, label=label)
    axis.set(xlabel="x", ylabel="y", title=f"Test task {episode}: {data.support_samples} support points")
    axis.grid(alpha=0.3)
    axis.legend()
    return _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Draw how a checkpoint's model adapts to one test task."""
    with clear_errors():
        experiment = parse(
            argv,
            "Draw how a checkpoint's model adapts to one test task, into the file that --output names.",
            PictureOptions,
            settings_from="checkpoint",
            unused=UNUSED,
        )
        data, lit_model = experiment.build(test_split="test")
        if not can_draw_fit(lit_model, data):
            raise BadInput(
                f"--checkpoint={experiment.extra['checkpoint']} cannot be drawn: only curves are, as the sinusoid's "
                "tasks, of an algorithm with an inner loop."
            )
        load_weights(lit_model, experiment.extra["checkpoint"], "checkpoint")
        output = Path(experiment.extra["output"])
        make_folder(output.parent, "output")
        print_result(f"The picture is in {draw_fit(lit_model, data, output, experiment.extra['episode'])}")


if __name__ == "__main__":
    main()
