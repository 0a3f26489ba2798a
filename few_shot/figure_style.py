"""The house style of figures: colours, lines, ticks, sizes. matplotlib is imported only when something is drawn.

Colours differ in lightness, so that they print in grey, and are told apart by the colour-blind (after Paul Tol's
high-contrast and medium-contrast schemes, https://sronpersonalpages.nl/~pault/). A line has its own dashes and marker
besides. An axis says what it shows and in which unit. A logarithmic axis has ticks such as 0.1, 0.2, 0.5 and 1.
"""

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from few_shot.errors import BadInput
from few_shot.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Text, what stands back, rules, and the truth behind predictions.
INK, FAINT, RULE, TRUTH = "#1c1c1a", "#6f6f6a", "#d8d8d4", "#bdbdb8"
#: Series in their order: blue, orange, red, light blue, brown, pink.
COLOURS = ("#004488", "#d99300", "#bb5566", "#6699cc", "#775500", "#ee99aa")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = "osD^vPX"
#: Width of a panel in inches: its text, at 10 points, can still be read on a phone.
WIDTH = 4.8
#: Fonts with Chinese, Japanese or Korean letters. Those that are installed write what the usual font does not have.
FONTS_OF_EAST_ASIA = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("PingFang SC", "PingFang HK", "Hiragino Sans", "Apple SD Gothic Neo"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)
SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in the name of a class is a dollar
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 180,
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "few_shot",  # the same figure is the same file
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style in here; also a decorator.

    Raises:
        BadInput: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib import font_manager
    except ImportError:
        raise BadInput("Pictures need matplotlib, which is not installed: pip install matplotlib.") from None
    installed = set(font_manager.get_font_names())
    families = ["sans-serif", *(name for name in FONTS_OF_EAST_ASIA if name in installed)]
    with matplotlib.rc_context(SETTINGS | {"font.family": families}):
        yield


def new_figure(
    rows: int = 1, columns: int = 1, width: float = WIDTH, height: float = 3.2, **subplots: Any
) -> "tuple[Figure, Any]":
    """A figure with panels of a width and height in inches; returns it and its axes, ``[rows, columns]``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def line_style(number: int) -> dict[str, Any]:
    """Colour, dashes and marker of a series by its number, from 0. No two of the first 42 are alike."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def shade(axis: "Axes", x: Any, middle: Any, margin: Any, colour: str) -> None:
    """A band of ``middle`` ± ``margin``, such as a 95 % confidence interval."""
    axis.fill_between(x, middle - margin, middle + margin, color=colour, alpha=0.18, linewidth=0)


def plain_number(value: float) -> str:
    """A number as a person writes it: 0.002, 0.5, 20, 60 000."""
    if abs(value) >= 10_000:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.10f}".rstrip("0").rstrip(".") if 1e-10 < abs(value) < 1e-4 else f"{value:.6g}"


def readable_time(seconds: float) -> str:
    """A time in ms or s: 20 ms, 1.5 s."""
    return f"{plain_number(seconds)} s" if seconds >= 1 else f"{plain_number(1e3 * seconds)} ms"


def readable_memory(size: float) -> str:
    """Bytes in MB or GB: 50 MB, 1.2 GB."""
    return f"{plain_number(size / 1e9)} GB" if size >= 1e9 else f"{plain_number(size / 1e6)} MB"


def count_axis(axis: Any, most: int = 6) -> None:
    """At most so many intervals of whole numbers on a linear axis (``axes.xaxis``), such as outer updates."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=most, integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))


def log_axis(axis: Any, text: Callable[[float], str] = plain_number) -> None:
    """Make an axis (``axes.yaxis``) logarithmic, with plain ticks; call it when everything is drawn.

    Args:
        text: a tick's value to its label.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
    """At most nine round numbers between two positive ones: powers of ten, or 1-2-5, or else even steps."""
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [float(f"{d}e{e}") for e in decades for d in digits] for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
    ]
    choices.append([float(value) for value in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)])
    for choice in choices:
        found = [value for value in choice if low <= value <= high]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / 9)]
    return [low, high]


def save(figure: "Figure", *paths: Path) -> None:
    """Write a figure to files; a file's ending is its format (png, svg, pdf).

    Raises:
        BadInput: a file cannot be written.
    """
    with house_style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is laid out now, once for all files
        for path in paths:
            content, kind = io.BytesIO(), path.suffix.removeprefix(".")
            try:
                figure.savefig(content, format=kind or None, metadata={"Date": None} if kind == "svg" else None)
            except ValueError as error:
                raise BadInput(f"{path} cannot be drawn ({error}).") from error
            write_whole(path, content.getvalue())
