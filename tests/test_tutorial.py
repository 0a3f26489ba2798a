"""docs/tutorial.md is right: its blocks run one after the other, and what it says they print is what they print."""

import re
from pathlib import Path

import matplotlib
import pytest
import torch
from helpers import python_blocks

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text()
BLOCKS = python_blocks("docs/tutorial.md")


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    code = "\n".join(BLOCKS).replace("updates=2000", "updates=60").replace("max_steps=2000", "max_steps=5")
    names = {}
    exec(compile(code, "docs/tutorial.md", "exec"), names)
    printed = capsys.readouterr().out
    for picture in ("tasks", "steps", "rates"):
        assert (tmp_path / "tutorial" / f"{picture}.png").stat().st_size > 10_000
        assert f"(tutorial/{picture}.png)" in PAGE
    assert (tmp_path / "sine.ckpt").is_file()
    # What needs no training is the same as on the page, to what it prints.
    slopes = {
        name: float(value) for name, value in re.findall(r"(measured|second order|first order): +(-?[\d.]+)\n", printed)
    }
    on_page = {
        name: float(value) for name, value in re.findall(r"(measured|second order|first order): +(-?[\d.]+)\n", PAGE)
    }
    assert slopes == pytest.approx(on_page, rel=1e-4)
    assert slopes["second order"] == pytest.approx(slopes["measured"], rel=1e-5)
    assert slopes["first order"] != pytest.approx(slopes["measured"], rel=0.01)
    # Even sixty updates find weights that adapt better than random ones do.
    with torch.no_grad():
        assert names["test"](names["maml"])[1] < names["test"](names["random"])[1]
