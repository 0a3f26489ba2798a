"""Export the models that the page comes with into web/public/models: from published results, no training.

python web/models.py
"""

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from few_shot import load
from training import export

WEB = Path(__file__).resolve().parent
RESULTS = WEB.parent / "benchmarks" / "results"
MODELS = {"sinusoid": RESULTS / "sinusoid_10shot", "omniglot": RESULTS / "omniglot_5way_1shot_15query"}


def export_models(folder: Path) -> None:
    """Write each model of the page into a folder of its name."""
    for name, result in MODELS.items():
        export.main([f"--checkpoint={result}", f"--output={folder / name}"])
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Path(temporary) / "random.ckpt"
        save_random(MODELS["sinusoid"], checkpoint)
        export.main([f"--checkpoint={checkpoint}", f"--output={folder / 'sinusoid_random'}"])


def save_random(result: Path, path: Path) -> None:
    """Save a result's learner with the weights that its network starts from before training."""
    learner = load(result)
    torch.manual_seed(0)
    for module in learner.model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    learner.save(path)


if __name__ == "__main__":
    export_models(WEB / "public" / "models")
