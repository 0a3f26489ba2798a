"""Every command line that a sweep can generate is one that runs."""

import itertools

import pytest
import yaml
from helpers import ROOT, write_random_class_folders

from training import run_experiment
from training.command_line import parse

pytestmark = pytest.mark.usefixtures("no_pictures")

SWEEPS = sorted((ROOT / "training" / "sweeps").glob("*.yaml"))


def text(value):
    """As wandb's agent writes a value: Python's booleans too."""
    return str(value)


def choices(parameter):
    """A parameter's values, or the ends of its range."""
    if "value" in parameter:
        return [parameter["value"]]
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def command_lines(path):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["program"] == "training/run_experiment.py" and sweep["command"][-1] == "${args}"
    names = list(sweep["parameters"])
    for values in itertools.product(*(choices(sweep["parameters"][name]) for name in names)):
        yield [f"--{name}={text(value)}" for name, value in zip(names, values, strict=True)]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_each_parses(path):
    found = [str(parse(line, "a run").config) for line in command_lines(path)]
    assert len(set(found)) == len(found) >= 12


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_random_class_folders(tmp_path_factory.mktemp("images"), classes=5, images=4)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_each_runs_one_step(path, images, tmp_path, monkeypatch):
    """One that has all extreme values, and one for each value that differs from it: all but the numbers' products."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tiny = ["--fast_dev_run", "--batch_size=2", "--gpus=0", "--width=2", f"--log_dir={tmp_path}"]
    lines = list(command_lines(path))
    if "MiniImagenet" in str(lines):
        sizes = ["--episode_classes=2", "--support_samples=1", "--query_samples=1", "--test_query_samples=1"]
        tiny += [f"--data_dir={images}", *sizes, "--test_inner_loop_steps=1"]
    seen = set()
    for line in lines:
        if set(line) <= seen:
            continue
        seen |= set(line)
        assert run_experiment.main([*line, *tiny])["episodes"] == 2
