"""Figures can be read: plain ticks, colours that differ in grey and for the colour-blind, the same file each time."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from few_shot.errors import BadInput
from few_shot.figure_style import (
    COLOURS,
    house_style,
    line_style,
    log_axis,
    log_ticks,
    new_figure,
    plain_number,
    readable_memory,
    readable_time,
    save,
)


def lightness_and_colour(rgb):
    """CIE L*a*b* of linear RGB ``[3]``, D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (to_xyz @ np.clip(rgb, 0, 1)) / np.array([0.9505, 1.0, 1.089])
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def linear(colour):
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


#: Viénot, Brettel & Mollon 1999, in linear RGB: what who lacks red or green cones sees.
SEEN_BY = {
    "all": np.eye(3),
    "protanopes": np.array([[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.0040, -0.0040, 1]]),
    "deuteranopes": np.array([[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]]),
}


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_all_pairs_of_colours_are_told_apart(eyes):
    seen = [lightness_and_colour(SEEN_BY[eyes] @ linear(colour)) for colour in COLOURS]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 15  # of neighbours in print about 2 can be seen


def test_in_grey_series_differ_in_lightness_or_else_in_dashes_and_marker():
    lightness = [lightness_and_colour(linear(colour))[0] for colour in COLOURS]
    assert min(abs(a - b) for i, a in enumerate(lightness[:3]) for b in lightness[:i]) > 15
    styles = [line_style(i) for i in range(12)]
    assert len({(str(s["linestyle"]), s["marker"]) for s in styles}) == 12


@given(st.floats(1e-9, 1e9), st.floats(1.05, 1e9))
def test_ticks_of_a_log_axis_lie_on_it_and_are_few(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 9 and ticks == sorted(set(ticks))
    assert low <= ticks[0] and ticks[-1] <= low * ratio


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.09, 1.1, ["0.1", "0.2", "0.5", "1"]),
        (0.25, 0.45, ["0.3", "0.4"]),
        (8, 700, ["10", "20", "50", "100", "200", "500"]),
        (1e-5, 20, ["0.00001", "0.0001", "0.001", "0.01", "0.1", "1", "10"]),
    ],
)
def test_the_ticks_that_a_person_would_write(low, high, labels):
    found = [plain_number(tick) for tick in log_ticks(low, high)]
    assert [label for label in labels if label not in found] == []
    assert not any("e" in label or "×" in label for label in found)


def test_units():
    assert [readable_memory(v) for v in (20e6, 999e6, 1.5e9)] == ["20 MB", "999 MB", "1.5 GB"]
    assert [readable_time(v) for v in (0.0005, 0.02, 1.5)] == ["0.5 ms", "20 ms", "1.5 s"]
    assert plain_number(60_000) == "60\N{NARROW NO-BREAK SPACE}000"


def test_an_axis_shows_them_and_the_same_figure_is_the_same_file(tmp_path):
    with house_style():
        figure, ((axis,),) = new_figure()
        axis.plot([0, 1], [0.1, 1.0], **line_style(0))
        log_axis(axis.yaxis)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0.1", "0.2", "0.5", "1"]
    save(figure, tmp_path / "a.svg", tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert ">0.2</text>" in (tmp_path / "a.svg").read_text()


def test_without_matplotlib_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BadInput, match="pip install matplotlib"), house_style():
        pass


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    figure, _ = new_figure()
    with pytest.raises(BadInput, match="cannot be drawn"):
        save(figure, tmp_path / "picture.foo")
