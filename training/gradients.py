"""The picture of a run's outer gradients over the training."""

from typing import TYPE_CHECKING

import numpy as np

from few_shot.figure_style import FAINT, count_axis, house_style, new_figure, plain_number
from training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: So many parameters' gradients are shown, the largest.
MOST_PARAMETERS = 24
#: Below it TensorBoard's buckets do not tell a number from zero.
ZERO = 1e-11


@house_style()
def draw_gradients(folder: RunFolder) -> "Figure | None":
    """How large the elements of each parameter's outer gradient were over the training: a heat map a parameter.

    A column is an update, a row a size, and the darker, the more elements; the row at the bottom is exactly zero. None
    where no histogram was logged (``--log_gradient_histograms``).
    """
    logged = folder.gradient_histograms()
    if not logged:
        return None
    sizes = {name: found[0][1][:, 1].sum() for name, found in logged.items()}
    names = [name for name in logged if name in sorted(sizes, key=sizes.__getitem__)[-MOST_PARAMETERS:]]
    every = np.concatenate([np.abs(cells[:, 0]) for name in names for _, cells in logged[name]])
    every = every[every > ZERO] if (every > ZERO).any() else np.ones(1)
    low, high = np.log10(np.quantile(every, [0.001, 1]))
    edges = np.arange(np.floor(2 * low), np.ceil(2 * high) + 2) / 2  # half a power of ten each
    columns = min(3, len(names))
    figure, axes = new_figure(-(-len(names) // columns), columns, width=2.5, height=1.7, sharex=True, sharey=True)
    for axis, name in zip(axes.flat, names, strict=False):
        shares = np.stack([_shares(cells, edges) for _, cells in logged[name]], axis=1)
        updates = np.array([update for update, _ in logged[name]])
        bounds = np.array([updates[0] - 0.5, *((updates[1:] + updates[:-1]) / 2), updates[-1] + 0.5])
        rows = np.array([edges[0] - 1, *edges])
        mesh = axis.pcolormesh(bounds, rows, 100 * shares, cmap="Greys", vmin=0, vmax=60, rasterized=True)
        axis.set_title(f"{name} ({plain_number(sizes[name])})", fontsize=8)
        axis.grid(False)
        count_axis(axis.xaxis, most=4)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    whole = np.arange(np.ceil(edges[0] + 0.5), edges[-1] + 1, max(1, round((edges[-1] - edges[0]) / 5)))
    axes[0, 0].set_yticks([edges[0] - 0.5, *whole], ["0", *(plain_number(10.0**e) for e in whole)])
    figure.supxlabel("outer updates", fontsize=9)
    figure.supylabel("size of an element of the gradient", fontsize=9)
    bar = figure.colorbar(mesh, ax=axes, label="of the elements, %", aspect=40, pad=0.02)
    bar.outline.set_edgecolor(FAINT)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    left_out = f"; {len(logged) - len(names)} smaller ones are left out" if len(logged) > len(names) else ""
    figure.suptitle(f"Outer gradient of each parameter (its elements){left_out}", x=0.01, ha="left", fontsize=10)
    return figure


def _shares(cells: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which part of the elements each row holds: the zeros, and then by powers of ten; tiny ones go to the least."""
    sizes = np.abs(cells[:, 0])
    powers = np.where(sizes > ZERO, np.maximum(np.log10(np.maximum(sizes, ZERO)), edges[0]), edges[0] - 1)
    counts, _ = np.histogram(powers, np.array([edges[0] - 1, *edges]), weights=cells[:, 1])
    return counts / max(1.0, cells[:, 1].sum())
