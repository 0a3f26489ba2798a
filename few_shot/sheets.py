"""An episode of pictures as a sheet: what each was taken for, before and after adaptation."""

import string
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from few_shot.episodes import number_type
from few_shot.errors import BadInput
from few_shot.evaluating import evaluating
from few_shot.figure_style import COLOURS, FAINT, INK, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: So many support and query pictures of a class are shown.
SHOWN = 5, 6
#: Inches of a picture on a sheet.
CELL = 0.72
#: So many pictures' widths the heading takes.
HEADING = 6.4


def can_draw_sheet(data: Any) -> bool:
    """Whether a task is pictures of classes, out of a store that names them."""
    return data.metric == "accuracy" and len(data.input_shape) == 3 and hasattr(data, "stores")


@house_style()
def draw_sheet(lit_model: Any, data: Any, episode: int = 0, steps: int | None = None) -> "Figure":
    """Draw one unseen episode: support pictures with their labels, query pictures with what they are taken for.

    A query picture has the likeliest label and its probability before and after adaptation; a mistake has a frame.

    Args:
        lit_model: any algorithm that tells classes apart.
        data: a data module of images, after its ``setup``.
        episode: the number of the test episode, from 0.
        steps: inner steps; None for test_inner_loop_steps.

    Raises:
        BadInput: the tasks are no pictures of classes, the algorithm has no inner steps, or matplotlib is missing.
    """
    if not can_draw_sheet(data):
        raise BadInput("A sheet shows pictures of classes, and these tasks are something else.")
    steps = lit_model.steps_or_own(steps)
    split, store = data.test_split, data.stores[data.test_split]
    drawn = data.draw(split, data.eval_seed, np.array([episode]))
    classes = store.classes_of(drawn.support_x[0].numpy())
    batch = data.prepare(drawn, split, number_type(lit_model))
    batch = type(batch)(*(tensor.to(lit_model.device) for tensor in batch))
    with evaluating(lit_model):
        found = lit_model.test_predictions(batch, sorted({0, steps}))
    before, after = (found[i][0].double().softmax(-1).cpu() for i in (0, -1))
    ways = len(set(classes.tolist()))
    support, query = (_by_class(x[0].cpu(), ways) for x in (batch.support_x, batch.query_x))
    shots, queries = (min(x.shape[1], most) for x, most in zip((support, query), SHOWN, strict=True))
    width, height = max(shots + queries + 0.4, HEADING), 1.95
    figure, ((axis,),) = new_figure(width=CELL * width, height=CELL * (height * ways + 1.1))
    figure.set_layout_engine("none")
    axis.set_position((0.01, 0.01, 0.98, 0.98))
    axis.set(xlim=(0, width), ylim=(height * ways, -1.1), aspect="equal")
    axis.axis("off")
    right = (after.argmax(-1) == batch.query_y[0].cpu()).double().mean().item()
    axis.text(0, -0.85, f"Test episode {episode}: {100 * right:.0f} % of {len(after)} queries right", va="center")
    when = "label and probability" if steps == 0 else f"label and probability before (grey) and after {steps} steps"
    axis.text(0, -0.5, f"Left support, right queries: {when}", va="center", fontsize=7.5, color=FAINT)
    axis.text(0, -0.2, "A frame and ✗ mark a mistake.", va="center", fontsize=7.5, color=FAINT)
    for way in range(ways):
        top = height * way + 0.3
        letter, name = letter_of(way), ending(store.class_names[classes[way * support.shape[1]]], 7 * int(width))
        axis.text(0, top - 0.12, letter, weight="bold", va="baseline")
        axis.text(0.3, top - 0.12, name, va="baseline", fontsize=8)
        for i in range(shots):
            _show(axis, support[way, i], i, top)
        for i in range(queries):
            number = way * query.shape[1] + i
            left = shots + 0.4 + i
            _show(axis, query[way, i], left, top)
            _caption(axis, before[number] if steps else None, after[number], way, left, top)
    return figure


def _by_class(pictures: Tensor, ways: int) -> NDArray:
    """``[N*n, C, H, W]`` to ``[N, n, H, W, C]``."""
    return pictures.float().clamp(0, 1).unflatten(0, (ways, -1)).movedim(2, -1).numpy()


def _show(axis: "Axes", picture: NDArray, left: float, top: float) -> None:
    """One picture with a small margin; grey ones as ink on paper."""
    extent = (left + 0.03, left + 0.97, top + 0.97, top + 0.03)
    picture = 1 - picture[..., 0] if picture.shape[-1] == 1 else picture
    axis.imshow(picture, extent=extent, cmap="gray", vmin=0, vmax=1, interpolation="none", aspect="equal")


def _caption(axis: "Axes", before: Tensor | None, after: Tensor, truth: int, left: float, top: float) -> None:
    """What a query picture was and is taken for, under it; a frame and a cross around a mistake."""
    lines = [(row, colour) for row, colour in ((before, FAINT), (after, INK)) if row is not None]
    wrong = int(after.argmax()) != truth
    for i, (row, colour) in enumerate(lines):
        label = int(row.argmax())
        mark = "✗ " if wrong and colour == INK else ""
        text = f"{mark}{letter_of(label)} {100 * row[label].item():.0f} %"
        axis.text(left + 0.5, top + 1.15 + 0.24 * i, text, ha="center", va="center", fontsize=7.5, color=colour)
    if wrong:
        from matplotlib.patches import Rectangle

        axis.add_patch(Rectangle((left + 0.03, top + 0.03), 0.94, 0.94, fill=False, lw=2.5, ec=COLOURS[2]))


def letter_of(label: int) -> str:
    """A, B, …, Z, AA, AB, …: what a class is called on a sheet."""
    letters = string.ascii_uppercase
    return (letter_of(label // 26 - 1) if label >= 26 else "") + letters[label % 26]


def ending(name: str, most: int) -> str:
    """A name's last characters: what tells classes apart mostly comes last, as in ``Greek/character04``."""
    return name if len(name) <= most else "…" + name[1 - most :]
