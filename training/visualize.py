"""Pictures of a run: its learning curves, and how a model adapts to one task.

python training/visualize.py --checkpoint=logs/Sinusoid-LitMAML/version_0/checkpoints/last.ckpt --episode=3
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from training.stopping import end_while_importing

    end_while_importing()

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from few_shot.files import given_path
from few_shot.metrics import METRICS
from few_shot.plots import draw_fit
from few_shot.whole_files import write_whole
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


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.tight_layout()
    write_whole(path, as_png(figure))
    plt.close(figure)
    return path


def as_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


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
        load_weights(lit_model, experiment.extra["checkpoint"], "checkpoint")
        figure = draw_fit(lit_model, data, experiment.extra["episode"])
        output = given_path(experiment.extra["output"], "output")
        make_folder(output.parent, "output")
        figure.savefig(output, dpi=120)
        print_result(f"The picture is in {output}")


if __name__ == "__main__":
    main()
