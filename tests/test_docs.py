"""The examples of the documentation run as they stand, but for fewer steps."""

import re
import subprocess
import sys

import pytest
from helpers import ROOT, python_blocks


@pytest.mark.slow
def test_the_examples_of_your_own_tasks_models_and_algorithms_run(tmp_path):
    code = "\n".join(python_blocks("docs/extending.md")).replace("max_steps=500", "max_steps=5")
    assert code.count("class ") >= 3
    (tmp_path / "mine.py").write_text(code)
    run = [sys.executable, "-W", "ignore::FutureWarning", "mine.py"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        re.search(r"^\d+\.\d+$", done.stdout, flags=re.MULTILINE) and (tmp_path / "cosine.png").stat().st_size > 10_000
    )
    assert "torch.Size([25, 5, 1])" in done.stdout
    assert "Recurrent runs for one task after the other" in done.stderr
    classes = code[: code.index("from few_shot import MAML")]
    (tmp_path / "mine.py").write_text(classes)
    flags = ["--data_class=mine.Cosine", "--model_class=SinusoidMLP", "--max_steps=2", "--gpus=0", "--test_episodes=4"]
    command = [sys.executable, str(ROOT / "training" / "run_experiment.py"), *flags]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (picture,) = tmp_path.glob("logs/Cosine-LitMAML/version_0/fit.png")
    assert picture.stat().st_size > 10_000


def test_the_readmes_lightning_example_runs(tmp_path):
    (example,) = [b for b in python_blocks("README.md") if "load_from_checkpoint" in b]
    example = example.replace("max_steps=100", "max_steps=2")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
