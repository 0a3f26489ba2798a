"""Pictures of what a learner does with one task. matplotlib is imported only when one is drawn."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from few_shot.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colour and line after so many inner steps; they differ in grey and for the colour-blind.
STYLES = {0: ("tab:gray", ":"), 1: ("tab:blue", "--"), 10: ("tab:green", "-")}


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


def draw_fit(lit_model: Any, data: Any, episode: int = 0, steps: Sequence[int] = (0, 1, 10)) -> "Figure":
    """Draw one unseen curve: the truth if known, the support points, the predictions after some inner steps.

    Args:
        lit_model: an algorithm with an inner loop.
        data: a data module whose tasks are curves, one number of one number.
        episode: the number of the test task, from 0.
        steps: the inner steps to draw, 0 for before adaptation.

    Raises:
        BadInput: the tasks are no curves, or the algorithm has no inner loop.
    """
    from matplotlib.figure import Figure

    if not can_draw_fit(lit_model, data):
        raise BadInput("Only curves are drawn, such as the sinusoid's tasks, of an algorithm with an inner loop.")
    index = np.array([episode])
    dtype, device = lit_model.dtype, lit_model.device
    batch = data.prepare(data.draw("test", data.eval_seed, index), "test", dtype)
    batch = type(batch)(*(tensor.to(device) for tensor in batch))
    points = batch.support_x[0, :, 0].double().cpu().numpy()
    at = np.linspace(min(-5.0, points.min()), max(5.0, points.max()), 200)
    figure = Figure(figsize=(7, 4.5), layout="tight")
    axis = figure.subplots()
    if (truth := truth_of(data)) is not None:
        axis.plot(at, truth("test", data.eval_seed, index, at[None, :, None])[0, :, 0], "k", lw=2, label="truth")
    axis.plot(points, batch.support_y[0, :, 0].cpu(), "r^", ms=8, label="support points", zorder=5)
    x = torch.as_tensor(at, dtype=dtype, device=device)[None, :, None]
    with torch.no_grad():
        predictions = lit_model.predictions_of(x)
        for step, fast_weights in enumerate(lit_model.adapt(batch.support_x, batch.support_y, max(steps))):
            if step in steps:
                colour, line = STYLES.get(step, ("tab:purple", "-."))
                label = "before adaptation" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"
                axis.plot(at, predictions(fast_weights)[0, :, 0].cpu(), line, color=colour, label=label)
    axis.set(xlabel="x", ylabel="y", title=f"Test task {episode}: {data.support_samples} support points")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
