"""A run that is stopped says how to go on, and goes on as if it had never stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, write_random_class_folders

from few_shot.lit_models.base import LitMetaLearner
from training import predict, run_experiment
from training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")

QUICK = ["--gpus=0", "--width=4", "--val_check_interval=3", "--max_steps=8", "--log_every_n_steps=1"]
SINES = [
    "--data_class=Sinusoid",
    "--batch_size=3",
    "--val_episodes=7",
    "--test_episodes=7",
    "--test_inner_loop_steps=1",
]
MEMBERS = ["LitMAML", "LitANIL", "LitBOIL", "LitMetaSGD", "LitMAMLPlusPlus", "LitIMAML", "LitReptile", "LitJoint"]


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """A shell starts jobs in the background so that they ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(log_dir, *flags):
    data = [] if "--data_class=ImageFolders" in flags else SINES
    run_experiment.main([*QUICK, *data, f"--log_dir={log_dir}", *flags])
    return next(log_dir.glob("*/version_0"))


def outcome(folder):
    """All that a run has come to, but for times."""
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    rest = ("metrics.csv", "test_metrics.json", "test_episodes.csv")
    return {
        "files": sorted(p.name for p in folder.rglob("*") if "tfevents" not in p.name),
        "weights": {name: value.numpy().tobytes() for name, value in last["state_dict"].items()},
        "optimizer": repr(last["optimizer_states"]),
        "best": [next(iter(s["best_k_models"].values())) for s in last["callbacks"].values() if "best_k_models" in s],
        **{name: (folder / name).read_bytes() for name in rest if (folder / name).exists()},
    }


@pytest.fixture
def signal_at(monkeypatch):
    """Has a signal sent within the n-th call of a step."""

    def set_up(step, n, signum=signal.SIGTERM):
        original, calls = getattr(LitMetaLearner, step), []

        def then_signal(self, *args):
            calls.append(None)
            if len(calls) == n:
                os.kill(os.getpid(), signum)
            return original(self, *args)

        monkeypatch.setattr(LitMetaLearner, step, then_signal)

    return set_up


def stopped(capsys, *arguments):
    """The exit status of a run that is stopped, and what it says last."""
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)
    return exit_.value.code, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(("step", "n"), [("training_step", 4), ("validation_step", 4), ("validation_step", 8)])
def test_it_goes_on_as_if_it_had_never_stopped(step, n, tmp_path, signal_at, capsys):
    """In training, in a validation, and in the last one, which follows an update that no interval ends with."""
    never = outcome(run(tmp_path / "never"))
    signal_at(step, n)
    status, said = stopped(capsys, tmp_path / "stopped")
    folder = next(tmp_path.glob("stopped/*/version_0"))
    assert status == 143
    assert said.startswith("Stopped by SIGTERM.") and said.endswith(f"--resume={folder}")
    run_experiment.main([f"--resume={folder}"])
    assert outcome(folder) == never


def test_a_run_that_is_stopped_before_it_goes_on_names_the_flags_that_it_was_to_go_on_with(tmp_path, signal_at, capsys):
    folder = run(tmp_path)
    signal_at("on_train_start", 1)
    with pytest.raises(SystemExit):
        run_experiment.main([f"--resume={folder}", "--max_steps=9", "--track_grad_norm=2"])
    command = capsys.readouterr().err.strip().splitlines()[-1].partition(f"--resume={folder} ")[2]
    assert sorted(command.split()) == ["--max_steps=9", "--track_grad_norm=2.0"]
    run_experiment.main([f"--resume={folder}", *command.split()])
    assert len(RunFolder(folder).curve("train_loss")) == 9 and RunFolder(folder).is_tested


def test_a_branch_that_is_killed_goes_on_as_the_branch_and_what_came_later_is_set_aside(tmp_path, monkeypatch):
    folder = run(tmp_path, "--ensemble=5")
    checkpoints, calls = folder / "checkpoints", []
    original = LitMetaLearner.training_step

    def killed_at_the_second(self, *args):
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("killed")
        return original(self, *args)

    monkeypatch.setattr(LitMetaLearner, "training_step", killed_at_the_second)
    with pytest.raises(RuntimeError, match="killed"):
        run_experiment.main([f"--resume={checkpoints / 'best-step=3.ckpt'}", "--outer_lr=0.5"])
    aside = checkpoints / "after_step=3"
    assert {path.name for path in aside.iterdir()} == {"best-step=6.ckpt", "best-step=8.ckpt", "last.ckpt"}
    assert [torch.load(p / "last.ckpt", weights_only=True)["global_step"] for p in (checkpoints, aside)] == [3, 8]
    assert list(RunFolder(folder).kept()) == [3]
    run_experiment.main([f"--resume={folder}"])
    assert RunFolder(folder).config()["outer_lr"] == 0.5 and list(RunFolder(folder).kept()) == [3, 6, 8]
    weights = [torch.load(p / "last.ckpt", weights_only=True)["state_dict"] for p in (checkpoints, aside)]
    assert not any(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_branch_changes_nothing_before_it_begins_and_a_second_one_keeps_the_first(tmp_path, signal_at):
    folder = run(tmp_path, "--ensemble=5")
    last, branch = folder / "checkpoints" / "last.ckpt", f"--resume={folder / 'checkpoints' / 'best-step=3.ckpt'}"
    before = last.read_bytes()
    signal_at("on_train_start", 1)
    with pytest.raises(SystemExit):
        run_experiment.main([branch])
    assert last.read_bytes() == before
    for rate in ("0.5", "0.25"):
        run_experiment.main([branch, f"--outer_lr={rate}"])
    aside = [folder / "checkpoints" / name / "last.ckpt" for name in ("after_step=3", "after_step=3_2")]
    rates = [torch.load(path, weights_only=True)["config"]["outer_lr"] for path in (*aside, last)]
    assert aside[0].read_bytes() == before and rates[1:] == [0.5, 0.25]


@pytest.mark.parametrize(("member", "precision"), [*((member, "64") for member in MEMBERS), ("LitMAML", "bf16")])
def test_every_member_at_every_precision(member, precision, tmp_path, signal_at, capsys):
    flags = [f"--lit_model_class={member}", f"--precision={precision}", "--limit_test_batches=0", "--max_steps=4"]
    goes_on_as_if_it_had_never_stopped(flags, tmp_path, signal_at, capsys)


@pytest.mark.parametrize("member", ["LitProtoNet", "LitProtoMAML", "LitMAMLPlusPlus"])
def test_members_that_classify_with_batch_norm_and_dropout(member, tmp_path, signal_at, capsys):
    write_random_class_folders(tmp_path / "data", classes=2, images=3)
    flags = ["--data_class=ImageFolders", f"--data_dir={tmp_path / 'data'}", "--image_size=16", "--model_class=Conv4"]
    flags += [f"--lit_model_class={member}", "--dropout=0.5", "--augment", "--episode_classes=2", "--precision=64"]
    flags += ["--query_samples=1", "--test_query_samples=1", "--max_steps=3", "--val_episodes=2", "--batch_size=1"]
    if member != "LitProtoNet":
        flags += ["--inner_loop_steps=1", "--test_inner_loop_steps=1"]
    goes_on_as_if_it_had_never_stopped([*flags, "--limit_test_batches=0"], tmp_path, signal_at, capsys)


def goes_on_as_if_it_had_never_stopped(flags, tmp_path, signal_at, capsys):
    never = outcome(run(tmp_path / "never", *flags))
    signal_at("training_step", 2)
    assert stopped(capsys, tmp_path / "stopped", *flags)[0] == 143
    folder = next(tmp_path.glob("stopped/*/version_0"))
    run_experiment.main([f"--resume={folder}"])
    assert outcome(folder) == never


def test_stopped_in_its_test_it_is_tested_when_it_is_resumed(tmp_path, signal_at, capsys):
    never = outcome(run(tmp_path / "never"))
    signal_at("test_step", 2, signal.SIGINT)
    status, said = stopped(capsys, tmp_path / "stopped")
    assert (status, said[:12]) == (130, "Interrupted.")
    folder = next(tmp_path.glob("stopped/*/version_0"))
    assert not RunFolder(folder).is_finished
    run_experiment.main(["--resume=last", f"--log_dir={tmp_path / 'stopped'}"])
    assert "Its test is left." in capsys.readouterr().err
    assert outcome(folder) == never


def test_a_job_of_slurm_is_queued_again_and_goes_on_by_itself(tmp_path, signal_at, capsys, monkeypatch):
    never = outcome(run(tmp_path / "never"))
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    signal_at("training_step", 5, signal.SIGUSR1)
    status, said = stopped(capsys, tmp_path / "stopped")
    assert status == 128 + signal.SIGUSR1 and "Job 71 is in the queue again" in said
    assert (tmp_path / "asked").read_text() == "requeue 71\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert outcome(run(tmp_path / "stopped")) == never
    assert len(list(tmp_path.glob("stopped/*/version_*"))) == 1
    run(tmp_path / "stopped")  # another command of the same job, had it been queued once more
    assert "Nothing is done" in capsys.readouterr().err
    run(tmp_path / "stopped", "--seed=1")  # its next command begins anew
    (other,) = tmp_path.glob("stopped/*/version_1")
    assert RunFolder(other).config()["seed"] == 1 and RunFolder(other).parts()[0].get("resumed") is None


SLURM = {"JOB_ID": "71", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
SLURM |= {"NODELIST": "localhost", "STEP_NODELIST": "localhost"}


def test_before_it_trains_there_is_nothing_to_go_on_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LitMetaLearner, "setup", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    status, said = stopped(capsys, tmp_path)
    assert (status, "There is no checkpoint yet" in said) == (143, True)


def test_stopped_while_its_record_is_written_nothing_is_half_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert stopped(capsys, tmp_path)[0] == 143
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_another_program_ends_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr(predict, "label", lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as exit_:
        predict.main(["--checkpoint=x", "--support=x", "--images=x"])
    assert (exit_.value.code, capsys.readouterr().err) == (130, "Interrupted.\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_to_one_process_of_two_stops_both(tmp_path):
    command = [sys.executable, "training/run_experiment.py", *QUICK, *SINES, f"--log_dir={tmp_path}"]
    command += ["--num_processes=2", "--max_steps=100000", "--val_check_interval=100000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "Sinusoid-LitMAML" / "version_0" / "metrics.csv"
    while not metrics.is_file():
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGTERM)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 143
    assert said.count("Stopped by SIGTERM.") == 1
    last = torch.load(metrics.parent / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == len(RunFolder(metrics.parent).curve("train_loss"))


def test_a_few_runs_are_killed_and_none_is_lost(tmp_path):
    """The short form of ``make chaos``, in a process of its own, which forks while it has one thread."""
    done = subprocess.run([sys.executable, "benchmarks/chaos.py", "--runs=3"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "lost: 0, different from a run never stopped: 0")
