"""What several test files set up alike."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image

from few_shot.episodes import SPLITS

ROOT = Path(__file__).parents[1]


def python_blocks(page):
    """The examples in Python on a page of the documentation."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def write_random_class_folders(root, classes, images):
    """So many small random images in each of so many classes a split, as mini-ImageNet's class folders."""
    rng = np.random.default_rng(0)
    for split, number in itertools.product(SPLITS, range(classes)):
        folder = root / split / f"{split}{number}"
        folder.mkdir(parents=True)
        for i in range(images):
            Image.fromarray(rng.integers(0, 256, (84, 84, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return root


def bare_trainer(**arguments):
    """A Trainer on the CPU that only trains, and writes nothing."""
    return pl.Trainer(
        accelerator="cpu",
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        **arguments,
    )


def run_in_a_process(*flags, script="run_experiment.py", both=False):
    """A run, or another script of training/, as a user starts it; what it prints: stdout, or stdout and stderr."""
    command = [sys.executable, f"training/{script}", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}  # for the models below
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done if both else done.stdout


def last_weights(folder):
    """All of them, at the end of the run in the folder, as one vector."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return torch.cat([value.double().flatten() for value in state.values()])


class BatchNormMLP(torch.nn.Module):
    """Batch norm with running statistics, as a user may write it."""

    def __init__(self, input_shape, output_size):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(*input_shape, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, output_size)
        )

    def forward(self, x):
        return self.layers(x)


class WithAnUnusedLayer(BatchNormMLP):
    def __init__(self, input_shape, output_size):
        super().__init__(input_shape, output_size)
        self.unused = torch.nn.Linear(3, 3)
