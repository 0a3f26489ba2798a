"""Pictures of what learners do with one task that is a curve."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from few_shot.episodes import number_type
from few_shot.errors import BadInput
from few_shot.evaluating import evaluating
from few_shot.figure_style import COLOURS, DASHES, FAINT, TRUTH, house_style, new_figure, plain_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


@house_style()
def draw_fit(
    lit_model: Any,
    data: Any,
    episode: int = 0,
    steps: Sequence[int] = (0, 1, 10),
    against: Mapping[str, Any] | None = None,
    name: str = "",
) -> "Figure":
    """Draw one unseen curve: the truth if known, the support points, the predictions after some inner steps.

    Every prediction has its mean squared error on the task's query points.

    Args:
        lit_model: an algorithm with an inner loop.
        data: a data module whose tasks are curves, one number of one number.
        episode: the number of the test task, from 0.
        steps: the inner steps to draw, 0 for before adaptation.
        against: other learners' algorithms by their names, each drawn in a panel of its own on the same points.
        name: of the first panel.

    Raises:
        BadInput: the tasks are no curves, an algorithm has no inner loop, or matplotlib is missing.
    """
    learners = {name: lit_model, **(against or {})}
    if not all(can_draw_fit(learner, data) for learner in learners.values()):
        raise BadInput("Only curves are drawn, such as the sinusoid's tasks, of an algorithm with an inner loop.")
    index = np.array([episode])
    drawn = data.draw("test", data.eval_seed, index)
    points = drawn.support_x[0, :, 0].double().numpy()
    low, high = getattr(data, "low", -5.0), getattr(data, "high", 5.0)
    at = np.linspace(min(low, points.min()), max(high, points.max()), 200)
    figure, panels = new_figure(1, len(learners), height=3.6, sharey=True)
    shots = len(points)
    what = f"Test task {episode}: {shots} support point{'s' * (shots > 1)}, MSE on {drawn.query_x.shape[1]} others"
    for axis, (title, learner) in zip(panels[0], learners.items(), strict=True):
        if (truth := truth_of(data)) is not None:
            values = truth("test", data.eval_seed, index, at[None, :, None])[0, :, 0]
            axis.plot(at, values, color=TRUTH, lw=5, label="truth", solid_capstyle="round")
        _draw_predictions(axis, learner, data.prepare(drawn, "test", number_type(learner)), at, sorted(set(steps)))
        axis.set(xlabel="x", title=title if len(learners) > 1 else what)
    panels[0, 0].set_ylabel("y")
    if len(learners) > 1:
        figure.suptitle(what, x=0.01, ha="left", fontsize=10)
    return figure


def _draw_predictions(axis: "Axes", learner: Any, batch: Any, at: np.ndarray, steps: Sequence[int]) -> None:
    """Support points, and the predictions at the points ``at`` after each of the steps, with their errors."""
    batch = type(batch)(*(tensor.to(learner.device) for tensor in batch))
    support = batch.support_x[0, :, 0].cpu(), batch.support_y[0, :, 0].cpu()
    axis.plot(*support, "^", ms=7, color=COLOURS[2], mec="white", label="support points", zorder=5)
    x = torch.as_tensor(at, dtype=number_type(learner), device=learner.device)[None, :, None]
    errors = {}
    with evaluating(learner):
        curve, queries = learner.predictions_of(x), learner.predictions_of(batch.query_x)
        for step, fast_weights in enumerate(learner.adapt(batch.support_x, batch.support_y, max(steps))):
            if step not in steps:
                continue
            label = "before adaptation" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"
            errors[label] = (queries(fast_weights) - batch.query_y).square().mean().item()
            axis.plot(at, curve(fast_weights)[0, :, 0].cpu(), label=label, **_style(step, steps))
    handles, labels = axis.get_legend_handles_labels()
    texts = [f"{text}, MSE {_short(errors[text])}" if text in errors else text for text in labels]
    axis.legend(handles, texts, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _style(step: int, steps: Sequence[int]) -> dict[str, Any]:
    """Grey dots before adaptation, a full blue line at the last step, others between."""
    if step == 0:
        return {"color": FAINT, "linestyle": ":"}
    if step == steps[-1]:
        return {"color": COLOURS[0], "linestyle": "-"}
    number = sorted(set(steps) - {0}).index(step)
    return {"color": COLOURS[1 + number % 4], "linestyle": DASHES[1 + number % 3]}


def _short(value: float) -> str:
    return plain_number(float(f"{value:.3g}")) if np.isfinite(value) else "not finite"
