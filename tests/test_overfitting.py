"""benchmarks/overfitting.py on small generated images: what it measures is what a plain evaluation gives."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from few_shot.data.cifar_fs import split_classes
from few_shot.episodes import SPLITS
from training import evaluate

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "overfitting.py"), run_name="overfitting")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Ten images in each of six classes a split."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split in SPLITS:
        for name in split_classes(split)[:6]:
            (root / split / name).mkdir(parents=True)
            for i in range(10):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                    root / split / name / f"{i}.png"
                )
    return root


@pytest.mark.slow
def test_every_arm_is_measured_on_the_training_classes_as_on_validation(images, tmp_path):
    results, figure, logs = (tmp_path / name for name in ("results.json", "figure.png", "logs"))
    flags = [f"--data_dir={images}", "--train_classes=6", "--max_steps=2", "--val_check_interval=1", "--gpus=0"]
    flags += ["--val_episodes=3", "--query_samples=1", "--test_query_samples=2", "--width=4"]
    options = [f"--results={results}", f"--figure={figure}", f"--log_dir={logs}"]
    text = SCRIPT["main"]([*options, *flags])
    found = json.loads(results.read_text())
    assert list(found) == list(SCRIPT["ARMS"])
    assert {tuple(result["updates"]) for result in found.values()} == {(1, 2)}
    checkpoints = logs / "augmentation" / "CifarFS-LitMAML" / "version_0" / "checkpoints"
    sizes = ["--test_episodes=3", "--ensemble=0"]
    for i, update in enumerate((1, 2)):
        checkpoint = f"--checkpoint={checkpoints / f'best-step={update}.ckpt'}"
        train, val = (evaluate.main([checkpoint, f"--split={split}", *sizes])["mean"] for split in ("train", "val"))
        assert found["augmentation"]["train"][i][0] == train
        assert found["augmentation"]["val"][i][0] == pytest.approx(val, rel=1e-6)
    assert SCRIPT["main"]([*options, "--redraw"]) == text
    assert figure.stat().st_size > 10_000


def test_the_readmes_table_is_that_of_the_record():
    assert SCRIPT["table"](json.loads(SCRIPT["RESULTS"].read_text())) in (ROOT / "docs" / "overfitting.md").read_text()
