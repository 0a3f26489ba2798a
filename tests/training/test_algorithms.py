"""Every algorithm through a whole run."""

import pytest
from helpers import write_random_class_folders

import few_shot.lit_models
from training import evaluate, run_experiment

pytestmark = pytest.mark.usefixtures("no_pictures")

SINUSOID = ["--data_class=Sinusoid", "--gpus=0", "--width=8", "--batch_size=5", "--val_episodes=4", "--test_episodes=6"]
SINUSOID += ["--test_inner_loop_steps=2"]
#: Flags of algorithms that train.
TRAINED = ["--outer_schedule=constant"]
OF_CLASSES = ["LitProtoMAML", "LitProtoNet"]
ALGORITHMS = [name for name in few_shot.lit_models.__all__ if name not in OF_CLASSES]


def checkpoints(log_dir, algorithm, data="Sinusoid"):
    return log_dir / f"{data}-{algorithm}" / "version_0" / "checkpoints"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_is_tested_recorded_and_evaluated_again(algorithm, tmp_path):
    flags = [*SINUSOID, f"--lit_model_class={algorithm}", f"--log_dir={tmp_path}"]
    flags += [] if algorithm == "LitRandom" else TRAINED
    summary = run_experiment.main([*flags, "--max_steps=3", "--val_check_interval=2"])
    assert [row["step"] for row in summary["per_step"]] == [0, 1, 2]
    folder = checkpoints(tmp_path, algorithm)
    best = next(folder.glob("best-*.ckpt"))
    assert evaluate.main([f"--checkpoint={best}"]) == summary
    resumed = run_experiment.main([f"--resume={folder / 'last.ckpt'}", "--max_steps=4"])
    whole = run_experiment.main([*flags, "--max_steps=4", "--val_check_interval=2", f"--log_dir={tmp_path / 'whole'}"])
    assert resumed == whole


@pytest.fixture(scope="module")
def image_folders(tmp_path_factory):
    """Six classes of eight small images a split."""
    return write_random_class_folders(tmp_path_factory.mktemp("images"), classes=6, images=8)


def image_flags(folder, log_dir):
    sizes = ["--episode_classes=3", "--query_samples=2", "--test_query_samples=2", "--width=4", "--batch_size=2"]
    quick = ["--val_episodes=3", "--test_episodes=4", "--max_steps=2", "--gpus=0"]
    return ["--data_class=MiniImagenet", f"--data_dir={folder}", f"--log_dir={log_dir}", *sizes, *quick]


@pytest.mark.parametrize("algorithm", OF_CLASSES)
def test_prototypes_are_trained_with_more_classes_than_they_are_tested(algorithm, image_folders, tmp_path):
    flags = [*image_flags(image_folders, tmp_path), f"--lit_model_class={algorithm}", "--train_episode_classes=6"]
    flags += ["--test_inner_loop_steps=2"] if algorithm == "LitProtoMAML" else []
    summary = run_experiment.main(flags)
    assert [row["step"] for row in summary["per_step"]] == ([0, 1, 2] if algorithm == "LitProtoMAML" else [0])
    best = next(checkpoints(tmp_path, algorithm, "MiniImagenet").glob("best-*.ckpt"))
    assert evaluate.main([f"--checkpoint={best}"]) == summary
