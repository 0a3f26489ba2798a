"""Runs that several tests look at."""

import pytest

from training import run_experiment
from training.run_folder import RunFolder

SMALL = ["--data_class=Sinusoid", "--gpus=0", "--width=8", "--batch_size=5", "--val_episodes=4", "--test_episodes=6"]
SMALL += ["--test_inner_loop_steps=3", "--val_check_interval=2", "--max_steps=4"]


@pytest.fixture(scope="session")
def maml_and_joint(tmp_path_factory):
    """Four updates each, in one folder of runs; MAML kept all its validated checkpoints, and its gradients' sizes."""
    log_dir = tmp_path_factory.mktemp("maml_and_joint")
    logged = ["--track_grad_norm", "--log_gradient_histograms", "--ensemble=3"]
    run_experiment.main([*SMALL, *logged, f"--log_dir={log_dir}"])
    run_experiment.main([*SMALL, "--lit_model_class=LitJoint", f"--log_dir={log_dir}"])
    return tuple(RunFolder(log_dir / f"Sinusoid-{algorithm}" / "version_0") for algorithm in ("LitMAML", "LitJoint"))
