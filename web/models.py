"""Export the models that the page comes with into web/public/models: from published results, no training.

python web/models.py
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from few_shot import load
from few_shot.learner import Learner

WEB = Path(__file__).resolve().parent
RESULTS = WEB.parent / "benchmarks" / "results"
SINUSOID, OMNIGLOT = RESULTS / "sinusoid_10shot", RESULTS / "omniglot_5way_1shot_15query"


def untrained(learner: Learner) -> Learner:
    """The same learner with random weights, as before its training."""
    torch.manual_seed(0)
    for module in learner.model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return learner


if __name__ == "__main__":
    learners = {"sinusoid": load(SINUSOID), "sinusoid_random": untrained(load(SINUSOID)), "omniglot": load(OMNIGLOT)}
    for name, learner in learners.items():
        print(f"exporting {name} for the page (a minute each)", flush=True)
        learner.export(WEB / "public" / "models" / name)
