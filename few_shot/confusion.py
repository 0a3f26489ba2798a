"""Which classes a learner mixes up: counted over test episodes, and drawn."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from few_shot.episodes import number_type
from few_shot.errors import BadInput
from few_shot.evaluating import evaluating
from few_shot.figure_style import COLOURS, INK, house_style, new_figure
from few_shot.sheets import can_draw_sheet, ending

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: So many classes fit into a matrix whose names can be read.
MOST_CLASSES = 40


@dataclass
class Confusion:
    """How often queries of a class were taken for another, of those that could have been.

    Args:
        names: the classes, ``[C]``.
        taken: queries of the class of a row that were taken for the class of a column, ``[C, C]``.
        could: queries of the class of a row in episodes that had the class of a column too, ``[C, C]``.
        episodes: how many there were.
        steps: inner steps.
    """

    names: list[str]
    taken: NDArray[np.int64]
    could: NDArray[np.int64]
    episodes: int
    steps: int

    @property
    def share(self) -> NDArray[np.float64]:
        """``taken / could``, ``[C, C]``; not a number where two classes never met."""
        return np.divide(self.taken, self.could, out=np.full(self.taken.shape, np.nan), where=self.could > 0)


def count_confusion(lit_model: Any, data: Any, episodes: int, steps: int | None = None) -> Confusion:
    """Adapt to the first test episodes, and count what their queries are taken for.

    Raises:
        BadInput: the tasks are no pictures of classes.
    """
    if not can_draw_sheet(data):
        raise BadInput("A confusion matrix is of classes of pictures, and these tasks are something else.")
    steps = lit_model.steps_or_own(steps)
    split, store = data.test_split, data.stores[data.test_split]
    taken = np.zeros((len(store.class_names),) * 2, dtype=np.int64)
    could = taken.copy()
    for first in range(0, episodes, data.batch_size):
        drawn = data.draw(split, data.eval_seed, np.arange(first, min(first + data.batch_size, episodes)))
        of_queries, of_support = (store.classes_of(rows.numpy()) for rows in (drawn.query_x, drawn.support_x))
        ways = of_support[:, :: data.support_samples]  # [T, N], the class of each label
        batch = type(drawn)(*(x.to(lit_model.device) for x in data.prepare(drawn, split, number_type(lit_model))))
        with evaluating(lit_model):
            labels = lit_model.test_predictions(batch, [steps])[0].argmax(-1).cpu().numpy()
        np.add.at(taken, (of_queries, np.take_along_axis(ways, labels, axis=1)), 1)
        np.add.at(could, (of_queries[:, :, None], ways[:, None, :]), 1)
    return Confusion(store.class_names, taken, could, episodes, steps)


@house_style()
def draw_confusion(confusion: Confusion) -> "Figure":
    """A matrix of the classes; of more than forty, what a page holds: how their accuracies spread, the worst pairs."""
    if len(confusion.names) > MOST_CLASSES:
        return _draw_many(confusion)
    classes, share = len(confusion.names), 100 * confusion.share
    side = max(4.0, 0.3 * classes + 2.0)
    figure, ((axis,),) = new_figure(width=side, height=side)
    axis.imshow(share, cmap="Greys", vmin=0, vmax=100)
    names = [ending(name, 24) for name in confusion.names]
    axis.set_xticks(range(classes), names, rotation=90, fontsize=8)
    axis.set_yticks(range(classes), names, fontsize=8)
    axis.grid(False)
    axis.tick_params(length=0)
    for row, column in np.argwhere(np.isfinite(share) & (share >= 0.5)):
        colour = "white" if share[row, column] > 55 else INK
        text = f"{share[row, column]:.0f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axis.set(xlabel="taken for", ylabel="is")
    figure.suptitle(
        f"{confusion.episodes} test episodes, {confusion.steps} inner steps:\n% of a row's queries that were taken for "
        "the column,\nof those in episodes that had both",
        x=0.02,
        ha="left",
        fontsize=9,
    )
    return figure


def _draw_many(confusion: Confusion, most: int = 12) -> "Figure":
    """The accuracies of many classes, from the worst to the best, and the pairs that are mixed up most often."""
    from matplotlib.ticker import MaxNLocator

    figure, ((ranked,), (pairs,)) = new_figure(2, 1, width=5.4, height=3.4, height_ratios=(2, 3))
    seen = confusion.could.diagonal() > 0
    figure.suptitle(
        f"{len(seen)} classes are too many for a matrix. Of the {seen.sum()} in {confusion.episodes} test\nepisodes, "
        f"{confusion.steps} inner steps: their accuracies, and the pairs mixed up most",
        x=0.02,
        ha="left",
        fontsize=9,
    )
    accuracies = np.sort(100 * confusion.share.diagonal()[seen])
    ranked.step(np.linspace(0, 100, len(accuracies)), accuracies, color=COLOURS[0])
    ranked.set(xlabel="classes from the worst to the best, %", ylabel="of its queries\nrecognised, %", ylim=(-3, 103))
    mistakes = np.where(np.eye(len(seen), dtype=bool), 0, confusion.taken)
    order = np.argsort(-mistakes, axis=None, kind="stable")[: min(most, int((mistakes > 0).sum()))]
    for place, (row, column) in enumerate(zip(*np.unravel_index(order, mistakes.shape), strict=True)):
        number, of = mistakes[row, column], confusion.could[row, column]
        names = [ending(confusion.names[i], 30) for i in (row, column)]
        pairs.plot((0, number), (place, place), "-o", color=COLOURS[0], lw=1, markevery=[1])
        pairs.text(0.03, place - 0.18, f"{names[0]} → {names[1]}: {number} of {of}", fontsize=7.5, va="bottom")
    pairs.set(xlabel="queries taken for the other", xlim=(0, None), yticks=[], ylim=(len(order) - 0.6, -0.9))
    pairs.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return figure
