"""Every algorithm through a whole run, in one process and in two."""

import pytest
import torch
from helpers import last_weights, run_in_a_process, write_random_class_folders

import few_shot.lit_models
from training import evaluate, run_experiment

SINUSOID = ["--data_class=Sinusoid", "--gpus=0", "--width=8", "--batch_size=5", "--val_episodes=4", "--test_episodes=6"]
SINUSOID += ["--test_inner_loop_steps=2"]
#: Flags of algorithms that train.
TRAINED = ["--outer_schedule=constant"]
TRAINED_BY_SGD = [*TRAINED, "--outer_optimizer=sgd", "--outer_lr=0.5"]
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


TWO = [pytest.param(name, [], id=name) for name in ALGORITHMS if name != "LitMAML"]
# A rate at which training through batch norm stays finite: else rounding errors grow with the weights.
NORM = ["--model_class=helpers.BatchNormMLP", "--outer_lr=0.001"]
TWO.append(pytest.param("LitMAMLPlusPlus", NORM, id="per-step batch norm"))


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "model"), TWO)
def test_two_processes_are_one(algorithm, model, tmp_path):
    """Five tasks over two processes: plain SGD at rate 1/2 moves all that is learned by the gradients' sum.

    Batch norm's running statistics are in the checkpoint too.
    """
    common = [flag for flag in SINUSOID if not (model and flag.startswith("--width"))]
    trained = [] if algorithm == "LitRandom" else TRAINED_BY_SGD
    flags = [*common, f"--lit_model_class={algorithm}", "--precision=64", *trained]
    flags += ["--limit_test_batches=0", "--limit_val_batches=0", *model]
    still = ["--outer_lr=1e-300"] if trained else []
    run_experiment.main([*flags, *still, "--max_steps=1", f"--log_dir={tmp_path / 'start'}"])
    run_experiment.main([*flags, "--max_steps=2", f"--log_dir={tmp_path / 'one'}"])
    run_in_a_process(*flags, "--max_steps=2", "--num_processes=2", f"--log_dir={tmp_path / 'two'}")
    runs = (tmp_path / name / f"Sinusoid-{algorithm}" / "version_0" for name in ("start", "one", "two"))
    start, one, two = map(last_weights, runs)
    if algorithm == "LitRandom":
        assert torch.equal(one, start)
    else:
        assert (one - start).norm() > 1e-3
    assert (two - one).norm() <= 1e-12 * (one - start).norm()
