"""The wheel gives few_shot, and nothing else, to a fresh environment."""

import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A Python in a new environment with the wheel, which sees the installed packages but not the repository."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "environment", with_pip=False)
    (site,) = (folder / "environment").glob("lib/python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))  # of its .pth files, none is read
    return folder / "environment" / "bin" / "python", wheel


def run(environment, code, folder):
    done = subprocess.run(
        [environment[0], "-I", "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_few_shot_alone(environment, tmp_path):
    python, wheel = environment
    assert wheel.name.startswith("few_shot_meta-")
    code = (
        "import few_shot, importlib.util as u; print(few_shot.__file__, u.find_spec('training'), u.find_spec('tests'))"
    )
    where, *others = run(environment, code, tmp_path).split()
    assert Path(where).is_relative_to(python.parents[1]) and others == ["None", "None"]
    splits = "from few_shot.data.omniglot import split_characters as s; print(len(s('train')))"
    assert run(environment, splits, tmp_path).strip() == "1100"


def test_the_readmes_example_runs_from_the_wheel(environment, tmp_path):
    example = re.search(r"```python\n(from few_shot import MAML.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert "max_steps=1000" in example and "load(" in example
    printed = run(environment, example.replace("max_steps=1000", "max_steps=3"), tmp_path)
    assert re.search(r"\[-?\d", printed) and (tmp_path / "sine.ckpt").is_file()


def test_nothing_heavy_is_imported_unasked(environment, tmp_path):
    code = "import few_shot, sys; print([m for m in ('wandb', 'timm', 'tensorboard', 'onnx') if m in sys.modules])"
    assert run(environment, code, tmp_path).strip() == "[]"
