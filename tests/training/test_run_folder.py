"""A run's folder: what it holds, and that it is read as it was written, however often the run was resumed."""

import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import ROOT, run_in_a_process
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import run_experiment
from training.run_folder import RunFolder

QUICK = ["--data_class=Sinusoid", "--gpus=0", "--width=8", "--batch_size=5", "--val_episodes=4", "--test_episodes=6"]
QUICK += ["--test_inner_loop_steps=1", "--outer_schedule=constant", "--val_check_interval=3"]
RUN = "Sinusoid-LitMAML/version_0"


def rows(folder):
    return list(csv.DictReader((folder.path / "metrics.csv").open()))


@pytest.fixture(scope="module")
def resumed_twice(tmp_path_factory):
    """Nine updates in three parts; the second part logs a name that the first does not."""
    log_dir = tmp_path_factory.mktemp("logs")
    folder = RunFolder(log_dir / RUN)
    run_experiment.main([*QUICK, "--max_steps=3", f"--log_dir={log_dir}"])
    for part in (["--max_steps=6", "--track_grad_norm"], ["--max_steps=9"]):
        run_experiment.main([f"--resume={folder.last_checkpoint}", *part])
    return folder


def test_a_new_run_leaves_these_files_and_no_others(tmp_path):
    run_experiment.main([*QUICK, "--max_steps=3", f"--log_dir={tmp_path}"])
    found = sorted(str(p.relative_to(tmp_path / RUN)) for p in (tmp_path / RUN).rglob("*") if p.is_file())
    (events,) = (name for name in found if name.startswith("events.out.tfevents."))
    assert found == sorted(
        [
            *("checkpoints/best-step=3.ckpt", "checkpoints/last.ckpt", "config.yaml", "curves.png", events, "fit.png"),
            *("curves.svg", "fit.svg", "steps.png", "steps.svg", "report.html"),
            *("metrics.csv", "run.json", "test_episodes.csv", "test_metrics.json"),
        ]
    )


def test_one_metrics_file_in_order_whatever_the_parts_logged(resumed_twice):
    found = rows(resumed_twice)
    assert not list(resumed_twice.path.glob("metrics*[!v]")) and len(list(resumed_twice.path.glob("metrics*"))) == 1
    steps = [int(row["step"]) for row in found]
    assert steps == sorted(steps)
    assert [int(row["step"]) for row in found if row["train_loss"]] == list(range(9))
    assert [bool(row["grad_norm"]) for row in found if row["train_loss"]] == [False] * 3 + [True] * 6
    assert [int(row["step"]) for row in found if row["test_mse"]] == [3, 6, 9]
    assert [update for update, _ in resumed_twice.curve("val_mse")] == [3, 6, 9]
    assert resumed_twice.curve("test_mse")[-1] == (9, pytest.approx(resumed_twice.result()["mean"], rel=1e-6))
    assert resumed_twice.curve("no_such_name") == []


def test_the_facts_of_all_parts_are_kept(resumed_twice):
    assert [part["updates"] for part in resumed_twice.parts()] == [3, 6, 9]
    assert resumed_twice.config()["max_steps"] == 9
    assert resumed_twice.facts()["updates"] == 9


def test_resumed_from_an_earlier_checkpoint_the_updates_that_are_done_again_are_logged_once(tmp_path):
    run_experiment.main([*QUICK, "--max_steps=9", f"--log_dir={tmp_path}", "--ensemble=5"])
    folder = RunFolder(tmp_path / RUN)
    losses = folder.curve("train_loss")
    run_experiment.main([f"--resume={folder.checkpoints / 'best-step=3.ckpt'}"])
    assert folder.curve("train_loss") == losses
    assert [update for update, _ in folder.curve("val_mse")] == [3, 6, 9]


def test_new_columns_keep_the_rows_before(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics([{"step": 0, "train_loss": 0.5}])
    folder.append_metrics([{"step": 1, "train_loss": 0.25, "grad_norm": 2.0}, {"step": 1, "val_mse": 3.0}])
    folder.append_metrics([{"step": 2, "train_loss": 0.125}])
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "step,train_loss,grad_norm,val_mse",
        "0,0.5,,",
        "1,0.25,2.0,",
        "1,,,3.0",
        "2,0.125,,",
    ]
    assert folder.curve("train_loss") == [(1, 0.5), (2, 0.25), (3, 0.125)]


def test_one_event_file_holds_training_test_and_pictures(tmp_path):
    summary = run_experiment.main([*QUICK, "--max_steps=3", f"--log_dir={tmp_path}"])
    (file,) = (tmp_path / RUN).glob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert {"train_loss", "val_mse", "test_mse"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {"curves", "fit", "steps"}
    assert events.Scalars("test_mse")[0].value == pytest.approx(summary["mean"], rel=1e-6)


def test_results_are_on_stdout_and_progress_on_stderr(tmp_path):
    """Of a process of its own, as a user sees it: nothing else is on either."""
    output = run_in_a_process(*QUICK, "--max_steps=3", f"--log_dir={tmp_path}", both=True)
    table, *rest = output.stdout.strip().split("\n\n")
    assert table.splitlines()[0] == "inner steps  MSE ± 95 % CI over 6 episodes"
    assert len(table.splitlines()) == 3
    (last,) = rest
    folder = tmp_path / RUN
    assert last.splitlines() == [
        f"curves: {folder / 'curves.png'}",
        f"fit: {folder / 'fit.png'}",
        f"steps: {folder / 'steps.png'}",
        f"report: {folder / 'report.html'}",
        f"Everything about this run is in {folder}",
    ]
    lines = [line for line in output.stderr.replace("\r", "\n").splitlines() if line.strip()]
    bars = ("Training", "Epoch", "Validation", "Testing", " ")
    assert [line for line in lines if not line.startswith(bars)] == []


def test_a_checkpoint_that_is_none_is_one_sentence(tmp_path, capsys):
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit) as exit_:
        run_experiment.main([f"--resume={tmp_path / 'other.ckpt'}"])
    assert exit_.value.code == 2
    assert "is no checkpoint of this project" in capsys.readouterr().err


def test_a_folder_without_git_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = RunFolder.start(str(tmp_path), "run")
    folder.record({}, "cpu")
    assert json.loads((folder.path / "run.json").read_text())["commit"] is None


def test_two_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: RunFolder.start(str(tmp_path), "run").path, range(24)))
    assert sorted(int(path.name.removeprefix("version_")) for path in folders) == list(range(24))


def test_a_run_that_is_going_on_is_not_resumed(tmp_path, capsys):
    """Its lock is that of another process, and ends with it."""
    run_experiment.main([*QUICK, "--max_steps=1", "--limit_test_batches=0", f"--log_dir={tmp_path}"])
    folder = RunFolder(tmp_path / RUN)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file() and path.name != ".lock"}
    holds = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from training.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[2]).taken(): print('taken', flush=True); time.sleep(300)"
    )
    resume = [f"--resume={folder.last_checkpoint}", "--max_steps=2", "--limit_test_batches=0"]
    with subprocess.Popen([sys.executable, "-c", holds, ROOT, folder.path], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(SystemExit) as exit_:
            run_experiment.main(resume)
        other.kill()
    assert exit_.value.code == 2
    assert f"A run is writing into {folder.path} just now" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before
    run_experiment.main(resume)
    assert folder.facts()["updates"] == 2
