"""Whole runs on the sinusoid, in this process and in several."""

import csv
import json
import os

import numpy as np
import pytest
import torch
import yaml
from helpers import last_weights, run_in_a_process
from many_runs import run_all
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import evaluate, run_experiment, visualize
from training.command_line import parse
from training.devices import gpus_to_use

pytestmark = pytest.mark.usefixtures("no_pictures")

QUICK = ["--data_class=Sinusoid", "--gpus=0", "--width=8", "--batch_size=5", "--val_episodes=7", "--test_episodes=11"]
WITHOUT_WIDTH = [flag for flag in QUICK if not flag.startswith("--width")]  # for models that have none
RUN = "Sinusoid-LitMAML/version_0"


def run(log_dir, *flags):
    return run_experiment.main([*QUICK, f"--log_dir={log_dir}", *flags])


def rows(path):
    return list(csv.DictReader(path.open()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 25 updates, validated after 10, 20 and 25."""
    log_dir = tmp_path_factory.mktemp("logs")
    flags = ["--max_steps=25", "--val_check_interval=10", "--track_grad_norm=2", "--log_gradient_histograms"]
    return run(log_dir, *flags), log_dir / RUN


def test_result_file(finished):
    summary, folder = finished
    assert json.loads((folder / "test_metrics.json").read_text()) == summary
    assert {k: summary[k] for k in ("metric", "episodes", "seed", "diverged", "diverged_episodes", "transductive")} == {
        "metric": "mse",
        "episodes": 11,
        "seed": 0,
        "diverged": 0,
        "diverged_episodes": [],
        "transductive": True,
    }
    assert [row["step"] for row in summary["per_step"]] == list(range(11))
    assert summary["per_step"][-1] == {"step": 10, "mean": summary["mean"], "ci95": summary["ci95"]}
    episodes = rows(folder / "test_episodes.csv")
    assert len(episodes) == 11 * 11
    last = [float(row["mse"]) for row in episodes if row["step"] == "10"]
    assert sum(last) / 11 == pytest.approx(summary["mean"])


def test_record(finished):
    _, folder = finished
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["data_class"], config["max_steps"], config["inner_lr"]) == ("Sinusoid", 25, 0.01)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert {"command", "commit", "python", "device"} <= set(facts)
    assert (facts["updates"], set(facts["seconds"])) == (25, {"training", "test"})


def test_logs_and_pictures(finished):
    _, folder = finished
    metrics = rows(folder / "metrics.csv")
    assert [int(row["step"]) + 1 for row in metrics if row["val_mse"]] == [10, 20, 25]
    assert len([row for row in metrics if row["train_loss"]]) == 25
    assert all(float(row["grad_norm"]) > 0 for row in metrics if row["train_loss"])
    for picture in ("curves.png", "fit.png"):
        assert (folder / picture).stat().st_size > 10_000
    tags = {"scalars": set(), "histograms": set(), "images": set()}
    for file in folder.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        for kind in tags:
            tags[kind] |= set(events.Tags()[kind])
    assert {"train_loss", "val_mse", "test_mse"} <= tags["scalars"]
    assert "gradients/1.weight" in tags["histograms"]
    assert {"curves", "fit"} <= tags["images"]


def test_checkpoints_load_with_weights_only(finished):
    _, folder = finished
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names[-1] == "last.ckpt"
    assert names[0].startswith("best-step=")
    for name in names:
        checkpoint = torch.load(folder / "checkpoints" / name, weights_only=True)
        assert checkpoint["config"]["data_class"] == "Sinusoid"


def best(folder):
    return next((folder / "checkpoints").glob("best-*.ckpt"))


def test_evaluate_gives_the_very_number(finished, tmp_path):
    summary, folder = finished
    assert evaluate.main([f"--checkpoint={best(folder)}", f"--output_dir={tmp_path}"]) == summary
    assert json.loads((tmp_path / "test_metrics.json").read_text()) == summary


def test_evaluate_follows_what_a_run_was_resumed_with(tmp_path):
    run(tmp_path, "--max_steps=2", "--val_check_interval=1")
    again = [f"--resume={tmp_path / RUN}", "--max_steps=4", "--outer_lr=3", "--test_episodes=3"]
    assert run_experiment.main(again) == evaluate.main([f"--checkpoint={tmp_path / RUN}"])


def test_another_algorithm_cannot_go_on_with_a_run(finished, capsys):
    _, folder = finished
    with pytest.raises(SystemExit):
        run_experiment.main([f"--resume={folder}", "--lit_model_class=LitANIL", "--max_steps=30"])
    assert "--lit_model_class=LitANIL cannot go on with a run of LitMAML: begin a new run" in capsys.readouterr().err


def test_the_last_updates_row_is_its_own(tmp_path):
    """Where it is no multiple of the interval too."""
    run(tmp_path, "--max_steps=5", "--log_every_n_steps=2", "--track_grad_norm=2")
    logged = [row for row in rows(tmp_path / RUN / "metrics.csv") if row["train_loss"]]
    assert [int(row["step"]) for row in logged] == [1, 3, 4]
    assert all(logged[1][name] != logged[2][name] for name in ("train_loss", "grad_norm"))


def test_the_norm_is_of_learned_rates_too(tmp_path):
    flags = ["--max_steps=1", "--log_every_n_steps=1", "--track_grad_norm=2", "--log_gradient_histograms"]
    run(tmp_path, *flags, "--lit_model_class=LitMetaSGD")
    (of_update,) = (r for r in rows(tmp_path / "Sinusoid-LitMetaSGD/version_0/metrics.csv") if r.get("grad_norm"))
    experiment = parse([*QUICK, "--lit_model_class=LitMetaSGD"], "test")
    data, lit_model = experiment.modules()
    batch = data.prepare(data.draw("train", 0, np.arange(5)), "train", torch.float32)
    loss = lit_model.outer_scores(batch).loss.mean()
    norm = torch.nn.utils.get_total_norm(torch.autograd.grad(loss, list(lit_model.parameters())))
    assert float(of_update["grad_norm"]) == pytest.approx(float(norm), rel=1e-4)


def test_evaluate_otherwise_by_flag(finished, capsys):
    summary, folder = finished
    checkpoint = f"--checkpoint={best(folder)}"
    other = evaluate.main([checkpoint, "--test_episodes=6", "--test_inner_loop_steps=3", "--support_samples=20"])
    assert (other["episodes"], len(other["per_step"])) == (6, 4)
    assert other["mean"] != summary["mean"]
    of_validation = evaluate.main([checkpoint, "--split=val"])
    assert of_validation["mean"] != summary["mean"] and of_validation["split"] == "val"
    assert "over 11 episodes of the val split" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        evaluate.main([checkpoint, "--width=9"])


def test_visualize_draws_another_task(finished, tmp_path):
    _, folder = finished
    visualize.main([f"--checkpoint={best(folder)}", "--episode=3", f"--output={tmp_path / 'task.png'}"])
    assert (tmp_path / "task.png").stat().st_size > 10_000


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path):
    flags = ["--val_check_interval=10", "--outer_schedule=constant"]
    whole = run(tmp_path / "whole", "--max_steps=30", *flags)
    run(tmp_path / "parts", "--max_steps=17", *flags)
    folder = tmp_path / "parts" / RUN
    resumed = run_experiment.main([f"--resume={folder / 'checkpoints' / 'last.ckpt'}", "--max_steps=30"])
    assert resumed == whole
    parts = rows(folder / "metrics.csv")
    assert [int(row["step"]) + 1 for row in parts if row["val_mse"]] == [10, 17, 20, 30]
    losses = {
        row["step"]: row["train_loss"] for row in rows(tmp_path / "whole" / RUN / "metrics.csv") if row["train_loss"]
    }
    assert all(losses[row["step"]] == row["train_loss"] for row in parts if row["train_loss"])


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_resumed_without_validation_the_new_weights_are_kept_and_tested(tmp_path):
    before = run(tmp_path, "--max_steps=6")
    folder = tmp_path / RUN
    after = run_experiment.main(
        [f"--resume={folder / 'checkpoints' / 'last.ckpt'}", "--max_steps=9", "--limit_val_batches=0"]
    )
    assert last(folder)["global_step"] == 9
    assert after["mean"] != before["mean"]
    assert json.loads((folder / "run.json").read_text())["updates"] == 9
    assert evaluate.main([f"--checkpoint={folder}", "--gpus=0"]) == after


def test_without_validation_last_is_still_saved_on_the_way(tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, "--max_steps=50", "--val_check_interval=5", "--limit_val_batches=0", f"--loss={KILLED}")
    assert last(tmp_path / RUN)["global_step"] in (5, 10, 15)


KILLED = "test_run_experiment.loss_until_killed"
CALLS = []


def loss_until_killed(prediction, target):
    CALLS.append(None)
    if len(CALLS) > 30:  # two an update, and one when the loss is tried
        raise RuntimeError("killed")
    return (prediction - target).square().mean()


def test_a_resumed_runs_flags_win_over_its_checkpoint(tmp_path):
    run(tmp_path, "--max_steps=3")
    folder = tmp_path / RUN
    resume = f"--resume={folder / 'checkpoints' / 'last.ckpt'}"
    run_experiment.main([resume, "--max_steps=5", "--outer_lr=1e-9", "--weight_decay=0.5"])
    group = last(folder)["optimizer_states"][0]["param_groups"][0]
    assert (group["lr"], group["weight_decay"]) == (1e-9, 0.5)
    assert yaml.safe_load((folder / "config.yaml").read_text())["outer_lr"] == 1e-9


def test_a_resume_that_fails_leaves_the_record_alone(tmp_path, capsys):
    run(tmp_path, "--max_steps=3")
    folder = tmp_path / RUN
    names = ("config.yaml", "run.json", "metrics.csv", "test_metrics.json", "checkpoints/last.ckpt")
    before = [(folder / name).read_bytes() for name in names]
    capsys.readouterr()
    for flag in ("--width=9", "--outer_optimizer=sgd"):
        with pytest.raises(SystemExit) as exit_:
            run_experiment.main([f"--resume={folder / 'checkpoints' / 'last.ckpt'}", "--max_steps=5", flag])
        assert exit_.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert [(folder / name).read_bytes() for name in names] == before


def test_a_config_of_a_resumed_run_starts_a_run_of_its_own(tmp_path):
    run(tmp_path, "--max_steps=3")
    folder = tmp_path / RUN
    run_experiment.main([f"--resume={folder / 'checkpoints' / 'last.ckpt'}", "--max_steps=4"])
    before = (folder / "test_metrics.json").read_bytes()
    run_experiment.main([f"--config={folder / 'config.yaml'}", "--max_steps=2"])
    assert (folder.parent / "version_1" / "test_metrics.json").exists()
    assert (folder / "test_metrics.json").read_bytes() == before


def test_a_moved_run_goes_on_where_it_lies_and_knows_its_best(tmp_path):
    run(tmp_path / "here", "--max_steps=6", "--val_check_interval=3")
    (tmp_path / "there").mkdir()
    folder = (tmp_path / "here" / RUN).rename(tmp_path / "there" / "version_0")
    found = best(folder).name
    summary = json.loads((folder / "test_metrics.json").read_text())
    resume = f"--resume={folder / 'checkpoints' / 'last.ckpt'}"
    # Steps so large that nothing gets better: the test is of the checkpoint that was best before.
    after = run_experiment.main([resume, "--max_steps=8", "--outer_lr=0.5"])
    assert best(folder).name == found
    assert after == summary
    assert last(folder)["global_step"] == 8
    assert list((tmp_path / "here" / "Sinusoid-LitMAML").iterdir()) == []


def test_the_best_checkpoint_is_tested_not_the_last(tmp_path):
    run(tmp_path, "--max_steps=4", "--val_check_interval=1", "--outer_lr=0.5")
    folder = tmp_path / RUN
    checkpoints = {name: f"--checkpoint={folder / 'checkpoints' / name}" for name in (best(folder).name, "last.ckpt")}
    means = {name: evaluate.main([flag])["mean"] for name, flag in checkpoints.items()}
    assert best(folder).name != "best-step=4.ckpt"
    assert json.loads((folder / "test_metrics.json").read_text())["mean"] == means[best(folder).name]
    assert means["last.ckpt"] != means[best(folder).name]


def test_a_run_without_a_test_can_be_evaluated_and_tested(tmp_path):
    run(tmp_path, "--max_steps=2", "--limit_test_batches=0")
    found = evaluate.main([f"--checkpoint={best(tmp_path / RUN)}"])
    assert found["episodes"] == 11
    assert run_experiment.main([f"--resume={tmp_path / RUN}", "--limit_test_batches=null"])["mean"] == found["mean"]
    assert run_experiment.main([f"--resume={tmp_path / RUN}"]) is None  # once


def test_scores_of_another_validation_do_not_compete(tmp_path, capsys):
    """The run's own are set so low that nothing could be better."""
    run(tmp_path, "--max_steps=4", "--val_check_interval=2")
    folder = tmp_path / RUN
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    (of_best,) = (s for s in state["callbacks"].values() if "best_k_models" in s)
    of_best["best_k_models"] = {path: torch.tensor(1e-9) for path in of_best["best_k_models"]}
    torch.save(state, folder / "checkpoints" / "last.ckpt")
    before = best(folder).name
    run_experiment.main([f"--resume={folder}", "--max_steps=6"])
    assert best(folder).name == before
    capsys.readouterr()
    run_experiment.main([f"--resume={folder}", "--max_steps=8", "--eval_seed=3", "--val_episodes=5"])
    assert "another one than before (--eval_seed, --val_episodes): the best checkpoint" in capsys.readouterr().err
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    (of_best,) = (s for s in last["callbacks"].values() if "best_k_models" in s)
    assert [path.rpartition("/")[2] for path in of_best["best_k_models"]] == ["best-step=8.ckpt"]


@pytest.mark.parametrize(
    ("script", "flags", "said"),
    [
        (evaluate, ["--checkpoint={run}", "--output_dir={run}"], "is the folder of a run, which has a test of its own"),
        (run_experiment, ["--resume={run}", "--max_steps=30", "--log_dir={run}/x"], "goes on in its own folder"),
    ],
)
def test_what_a_run_has_is_not_replaced(finished, script, flags, said, capsys):
    _, folder = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        script.main([flag.format(run=folder) for flag in flags])
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_rate_that_is_learned_cannot_be_given(tmp_path, capsys):
    run(tmp_path, "--lit_model_class=LitMAMLPlusPlus", "--max_steps=2", "--limit_test_batches=0")
    folder = tmp_path / "Sinusoid-LitMAMLPlusPlus" / "version_0"
    for script, flag in ((evaluate, "checkpoint"), (run_experiment, "resume")):
        with pytest.raises(SystemExit):
            script.main([f"--{flag}={folder}", "--inner_lr=5"] + ["--max_steps=3"] * (flag == "resume"))
        assert "--inner_lr=5.0 has no use here: the rates are learned" in capsys.readouterr().err


def test_versions_do_not_collide(tmp_path):
    for _ in range(2):
        run(tmp_path, "--max_steps=1", "--limit_test_batches=0", "--limit_val_batches=0")
    assert sorted(p.name for p in (tmp_path / "Sinusoid-LitMAML").iterdir()) == ["version_0", "version_1"]
    assert (tmp_path / RUN / "checkpoints" / "last.ckpt").exists()


def test_limits_count_outer_updates_and_batches(tmp_path):
    summary = run(tmp_path, "--max_steps=30", "--limit_train_batches=3", "--limit_test_batches=1")
    assert summary["episodes"] == 5
    assert torch.load(tmp_path / RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_flags_that_change_how_it_runs(tmp_path):
    """They are accepted and leave the result what it was, or near it."""
    plain = run(tmp_path, "--max_steps=4")["mean"]
    for flags in (["--deterministic"], ["--profile"], ["--stop_early=2"], ["--keep_memory=false"], ["--num_workers=1"]):
        assert run(tmp_path, "--max_steps=4", *flags)["mean"] == plain, flags
    assert run(tmp_path, "--max_steps=4", "--precision=64")["mean"] == pytest.approx(plain, rel=1e-4)
    assert run(tmp_path, "--max_steps=4", "--precision=bf16")["mean"] == pytest.approx(plain, rel=0.1)
    assert (tmp_path / "Sinusoid-LitMAML" / "version_2" / "fit-profile.txt").exists()


@pytest.mark.slow
def test_compiled_run(tmp_path):
    flags = ("--max_steps=4", "--precision=64")
    assert run(tmp_path, *flags, "--compile")["mean"] == pytest.approx(run(tmp_path, *flags)["mean"], rel=1e-9)


def test_what_cannot_be_compiled_runs_as_it_is(tmp_path):
    with pytest.warns(UserWarning, match="--compile: this experiment runs as it is .it cannot be compiled: "):
        compiled = run(tmp_path, "--max_steps=2", "--loss=test_run_experiment.loss_with_a_side_effect", "--compile")
    assert compiled == run(tmp_path, "--max_steps=2", "--loss=test_run_experiment.loss_with_a_side_effect")


def loss_with_a_side_effect(prediction, target):
    os.getpid()
    print(end="", flush=True)
    return (prediction - target).abs().mean()


def test_fast_dev_run_writes_nothing(tmp_path):
    assert run(tmp_path / "logs", "--fast_dev_run") is not None
    assert not (tmp_path / "logs").exists()


def test_no_early_stop_before_its_time(tmp_path):
    """With a rate of nearly 0 nothing improves: stopped after 1 + 2 validations."""
    run(tmp_path, "--max_steps=50", "--val_check_interval=5", "--stop_early=2", "--outer_lr=1e-30")
    assert torch.load(tmp_path / RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 15


def test_diverged_training_names_the_last_good_checkpoint(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path, "--max_steps=2000", "--val_check_interval=1", "--outer_optimizer=sgd", "--outer_lr=10")
    error = capsys.readouterr().err
    assert exit_.value.code == 1
    assert "is not finite" in error
    assert str(tmp_path / RUN / "checkpoints" / "last.ckpt") in error
    assert "--max_skipped_updates=10" in error


def test_wandb_without_key_or_network_is_offline_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run(tmp_path, "--max_steps=2", "--wandb")
    assert "logged offline" in capsys.readouterr().err
    assert list((tmp_path / RUN / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize(("mode", "goes_on"), [("online", "a-1"), ("offline", None)])
def test_a_resumed_run_goes_on_in_wandb(mode, goes_on, tmp_path, monkeypatch):
    begun = []

    class Run:
        def __init__(self, **settings):
            begun.append(settings)

        def define_metric(self, *args, **kwargs):
            pass

        def log(self, values):
            pass

        def finish(self):
            pass

    monkeypatch.setattr("wandb.init", Run)
    monkeypatch.setenv("WANDB_MODE", mode)
    run(tmp_path, "--max_steps=2", "--wandb")
    for name in ("run-20260101_000000-old", "run-20260102_000000-a-1", "offline-run-20260103_000000-b"):
        (tmp_path / RUN / "wandb" / name).mkdir(parents=True)
    run_experiment.main([f"--resume={tmp_path / RUN}", "--max_steps=4"])
    assert [(one["id"], one["resume"]) for one in begun] == [(None, None), (goes_on, goes_on and "allow")]


@pytest.mark.parametrize(
    ("model", "own"),
    [([], []), ([], ["--tasks_at_once=2"]), ([], ["--compile"]), (["--model_class=helpers.BatchNormMLP"], [])],
    ids=["MLP", "MLP, two tasks at once", "MLP, compiled", "BatchNormMLP"],
)
def test_two_processes_are_one(tmp_path, model, own):
    """Five tasks over two processes: plain SGD at rate 1 moves the weights by the sum of three gradients.

    Two tasks at once are two chunks in the first process, and one in the second.
    """
    flags = [*(WITHOUT_WIDTH if model else QUICK), *model, "--precision=64", "--outer_optimizer=sgd", "--outer_lr=1"]
    flags += ["--max_steps=3", "--val_check_interval=1"]
    run_all([[*flags, f"--log_dir={tmp_path / 'one'}"]])
    processes = [*own, "--accelerator=ddp", "--num_processes=2"]
    output = run_in_a_process(*flags, f"--log_dir={tmp_path / 'two'}", *processes)
    state = parse(flags, "a run").modules()[1].double().state_dict()
    zero = torch.cat([value.flatten() for value in state.values()])
    one, two = (last_weights(tmp_path / name / RUN) for name in ("one", "two"))
    assert (one - zero).norm() > 0.1
    assert ((two - one).norm() / (one - zero).norm()).item() < 1e-12
    for single, double in zip(*(rows(tmp_path / name / RUN / "metrics.csv") for name in ("one", "two")), strict=True):
        for name in ("train_loss", "val_mse", "val_mse_ci95", "test_mse"):
            assert bool(single[name]) == bool(double[name])
            if single[name]:
                assert float(double[name]) == pytest.approx(float(single[name]), rel=1e-6)
    assert output.count("inner steps") == 1
    assert [p.name for p in (tmp_path / "two" / "Sinusoid-LitMAML").iterdir()] == ["version_0"]


def test_fewer_tasks_than_processes_are_refused(tmp_path):
    with pytest.raises(AssertionError, match="--batch_size=1 is fewer tasks than the 2 processes"):
        run_in_a_process(*QUICK, f"--log_dir={tmp_path}", "--batch_size=1", "--num_processes=2", "--max_steps=1")


def test_parameters_that_no_loss_reaches_do_not_stop_two_processes(tmp_path):
    flags = ["--model_class=helpers.WithAnUnusedLayer", "--num_processes=2", "--max_steps=3"]
    run_in_a_process(*WITHOUT_WIDTH, f"--log_dir={tmp_path}", *flags)


def test_no_more_gpus_than_tasks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    for flags, gpus in (
        (["--gpus=-1"], range(5)),
        (["--gpus=-1", "--batch_size=9"], range(8)),
        (["--gpus=0,6"], (0, 6)),
    ):
        assert gpus_to_use(parse([*QUICK, *flags], "a run")) == list(gpus)


def test_devices_that_are_not_there_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for flags, sentence in (
        (["--gpus=2"], "--gpus=2 asks for GPU 0"),
        (["--gpus=0,3"], "--gpus=0,3 asks for GPU 0"),
        (["--gpus=,"], "--gpus=, is none of"),
        (["--gpus=many"], "--gpus=many is none of"),
        (["--gpus=-2"], "--gpus=-2 is none of"),
        (["--accelerator=gpu"], "--accelerator=gpu"),
    ):
        with pytest.raises(SystemExit) as exit_:
            run(tmp_path, *flags)
        assert exit_.value.code == 2
        assert sentence in capsys.readouterr().err
    assert run(tmp_path, "--gpus=-1", "--fast_dev_run") is not None
    assert "this runs on the CPU" in capsys.readouterr().err


def test_a_resumed_run_has_the_patience_it_is_resumed_with(tmp_path):
    hopeless = ["--outer_lr=1e-9", "--val_check_interval=1", "--val_episodes=2"]
    run(tmp_path, *hopeless, "--max_steps=9", "--stop_early=1")
    (folder,) = (tmp_path / "Sinusoid-LitMAML").iterdir()
    stopped = json.loads((folder / "run.json").read_text())["updates"]
    assert stopped < 9
    run(tmp_path, f"--resume={folder}", "--max_steps=9", "--stop_early=20")
    assert json.loads((folder / "run.json").read_text())["updates"] == 9


def test_a_run_is_resumed_through_a_link(tmp_path):
    run(tmp_path, "--max_steps=1")
    (tmp_path / "latest").symlink_to(tmp_path / "Sinusoid-LitMAML" / "version_0")
    run(tmp_path, f"--resume={tmp_path / 'latest'}", "--max_steps=2")
    assert [path.name for path in (tmp_path / "Sinusoid-LitMAML").iterdir()] == ["version_0"]
