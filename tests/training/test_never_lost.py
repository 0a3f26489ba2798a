"""What goes wrong around a run: it ends with one sentence, or goes on, and its last checkpoint is whole."""

import contextlib
import csv
import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal

import pytest
import torch
from helpers import write_random_class_folders

from few_shot import whole_files
from few_shot.lit_models.base import LitMetaLearner
from training import run_experiment
from training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")

QUICK = ["--data_class=Sinusoid", "--gpus=0", "--width=4", "--batch_size=3", "--val_episodes=3", "--test_episodes=3"]
QUICK += ["--test_inner_loop_steps=1", "--val_check_interval=2", "--log_every_n_steps=1"]
RUN = "Sinusoid-LitMAML/version_0"


def run(log_dir, *flags):
    run_experiment.main([*QUICK, f"--log_dir={log_dir}", *flags])
    return next(log_dir.glob("*/version_0"))


def resume(folder, *flags):
    return run_experiment.main([f"--resume={folder}", *flags])


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def updates(folder):
    """Those of the last checkpoint, which can be read."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def ended(capsys, *arguments):
    """The exit status of a run that fails, and the one line that it says beside its progress."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    (said,) = [line for line in lines if line.strip() and "/s" not in line and "[" not in line]
    return exit_.value.code, said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four updates, validated after two and four; the checkpoints of both are kept."""
    return run(tmp_path_factory.mktemp("finished"), "--max_steps=4", "--ensemble=5")


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run" / "version_0")


@pytest.fixture
def in_update(monkeypatch):
    """Has something done at the beginning of the n-th update of this process."""

    def set_up(n, do):
        original, calls = LitMetaLearner.training_step, []

        def training_step(self, *args):
            calls.append(None)
            if len(calls) == n:
                do()
            return original(self, *args)

        monkeypatch.setattr(LitMetaLearner, "training_step", training_step)

    return set_up


# Files.


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    whole_files.write_whole(path, "old")
    seen = []
    replace = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (seen.append(path.read_text()), replace(number)))
    whole_files.write_whole(path, "new")
    assert (seen, path.read_text(), os.listdir(tmp_path)) == (["old"], "new", ["file"])


def test_a_full_disk_changes_nothing_and_leaves_nothing(tmp_path, monkeypatch):
    paths = [tmp_path / "one", tmp_path / "two"]
    whole_files.write_together(dict.fromkeys(paths, "old"))
    sync, calls = os.fsync, []

    def full(number):
        calls.append(number)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(whole_files.CannotWrite, match=r"two cannot be written \(No space left on device\)"):
        whole_files.write_together(dict.fromkeys(paths, "new"))
    assert content(tmp_path) == {"one": b"old", "two": b"old"}


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(tmp_path):
    dead = multiprocessing.get_context("fork").Process(target=lambda: None)
    dead.start()
    dead.join()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / f".file.{pid}.part").write_text("half")
    whole_files.remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == [f".file.{os.getppid()}.part"]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in (tmp_path / "link", os.devnull):
        whole_files.write_whole(name, "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"
    assert not os.path.isfile(os.devnull)


def test_a_torn_last_row_is_read_past(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics([{"step": i, "train_loss": 0.5} for i in range(3)])
    whole = (tmp_path / "metrics.csv").read_bytes()
    (tmp_path / "metrics.csv").write_bytes(whole[:-3])
    assert folder.curve("train_loss") == [(1, 0.5), (2, 0.5)]
    folder.record({}, "cpu", {"global_step": 3, "callbacks": {}})
    folder.append_metrics([{"step": 2, "train_loss": 0.5}])
    assert (tmp_path / "metrics.csv").read_bytes() == whole


# Resuming.


def test_a_checkpoint_that_is_cut_short_is_passed_over_for_the_one_before(folder, capsys):
    last = folder / "checkpoints" / "last.ckpt"
    whole = content(folder)
    for name in ("last.ckpt", "best-step=4.ckpt"):
        path = folder / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SystemExit):
        resume(last)
    assert f"--resume={folder} goes on from the newest that can be read" in capsys.readouterr().err
    resume(folder)
    assert capsys.readouterr().err.count("is damaged and passed over for the checkpoint before it.") == 2
    assert {name: value for name, value in content(folder).items() if name.endswith((".csv", "step=2.ckpt"))} == {
        name: value for name, value in whole.items() if name.endswith((".csv", "step=2.ckpt"))
    }
    assert updates(folder) == 4


@pytest.mark.parametrize("which", ["folder", "last", "checkpoint"])
def test_a_run_that_has_no_update_left_is_not_touched(folder, which, tmp_path, capsys):
    before = content(folder)
    path = {"folder": folder, "last": "last", "checkpoint": folder / "checkpoints" / "last.ckpt"}[which]
    assert run_experiment.main([f"--resume={path}", "--max_steps=3", f"--log_dir={tmp_path}"]) is None
    assert "The run has done 4 updates, and --max_steps=3 asks for no more." in capsys.readouterr().err
    assert content(folder) == before


def test_a_run_that_was_stopped_early_is_not_touched_unless_it_may_go_on(tmp_path, capsys):
    flags = ("--max_steps=50", "--stop_early=1", "--outer_lr=1e-30")
    folder = run(tmp_path, *flags)
    before = content(folder)
    resume(folder)
    assert "stopped after 4 updates by --stop_early=1" in capsys.readouterr().err
    assert content(folder) == before
    resume(folder, "--stop_early=0", "--max_steps=6")
    assert updates(folder) == 6


def not_a_number(prediction, target):
    return (prediction - target).square().mean() * float("nan")


@pytest.mark.parametrize(
    ("flag", "status"),
    [("--width=9", 2), ("--no_such_flag", 2), ("--loss=test_never_lost.not_a_number", 1), ("--outer_optimizer=sgd", 2)],
)
def test_a_resume_that_fails_leaves_every_file_as_it_was(folder, flag, status):
    before = content(folder)
    with pytest.raises(SystemExit) as exit_:
        resume(folder, "--max_steps=6", flag)
    assert exit_.value.code == status
    assert content(folder) == before


def test_a_resume_that_finds_the_disk_full_leaves_every_file_as_it_was(folder, monkeypatch, capsys):
    before = content(folder)

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit):
        resume(folder, "--max_steps=6")
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert content(folder) == before


def damaged(change):
    def damage(folder):
        content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        change(content)
        torch.save(content, folder / "checkpoints" / "last.ckpt")

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damaged(lambda c: c.update(loops={})), "its state of the training is damaged"),
        (damaged(lambda c: c["loops"].update(fit_loop={"state_dict": 3})), "its state of the training is damaged"),
        (damaged(lambda c: c["optimizer_states"].clear()), "does not hold the state of a training (optimizer_states)"),
        (damaged(lambda c: c["optimizer_states"][0].pop("param_groups")), "its state of the training is damaged"),
        (damaged(lambda c: c["optimizer_states"][0]["param_groups"][0]["params"].pop()), "its state of the training"),
        (damaged(lambda c: c.update(lr_schedulers=["x"])), "does not hold the state of a training (lr_schedulers)"),
        (damaged(lambda c: c.update(callbacks={"LastCheckpoint": 3})), "does not hold the state of a training"),
        (lambda folder: (folder / "metrics.csv").write_bytes(b"step,x\r\n\xff,1\r\n"), "metrics.csv is damaged"),
        (
            lambda folder: (folder / "metrics.csv").write_text("a,b\n1,2\n"),
            "metrics.csv is damaged (a row has no step)",
        ),
    ],
)
def test_a_resume_from_what_is_damaged_is_one_sentence_and_changes_nothing(folder, damage, reason, capsys):
    damage(folder)
    before = content(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        resume(folder / "checkpoints" / "last.ckpt", "--max_steps=6")
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    (said,) = [line for line in lines if line.strip() and "/s" not in line]
    assert exit_.value.code == 2 and reason in said
    assert content(folder) == before


def test_there_is_nothing_to_resume(tmp_path, capsys):
    (tmp_path / RUN).mkdir(parents=True)
    for flags, said in (
        (["--resume=last", f"--log_dir={tmp_path / 'none'}"], "--resume=last finds no run in"),
        ([f"--resume={tmp_path / RUN}"], "holds no checkpoint yet; start the run anew."),
    ):
        with pytest.raises(SystemExit) as exit_:
            run_experiment.main(flags)
        assert exit_.value.code == 2
        assert said in capsys.readouterr().err


def test_a_record_that_an_older_version_left_half_written_is_no_obstacle(folder):
    (folder / "run.json").write_text('{"command": [')
    resume(folder, "--max_steps=5")
    assert json.loads((folder / "run.json").read_text())["updates"] == 5


def test_what_a_kill_between_two_files_has_left_is_removed(folder):
    checkpoints = folder / "checkpoints"
    shutil.copy(checkpoints / "best-step=2.ckpt", checkpoints / "best-step=1.ckpt")
    (checkpoints / ".last.ckpt.4194305.part").write_bytes(b"half")  # above the greatest number of a process
    resume(folder, "--max_steps=5")
    names = {path.name for path in checkpoints.iterdir()}
    assert names == {"last.ckpt", "best-step=2.ckpt", "best-step=4.ckpt", "best-step=5.ckpt"}


# The disk, the data and other processes.


@contextlib.contextmanager
def files_of_at_most(size):
    """Writing more fails as on a full disk, for all code of this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_the_run_and_its_last_checkpoint_is_whole(tmp_path, in_update, capsys):
    with contextlib.ExitStack() as until:
        in_update(4, lambda: until.enter_context(files_of_at_most(4096)))
        status, said = ended(capsys, tmp_path, "--max_steps=6")
    folder = tmp_path / RUN
    assert status == 2
    assert "cannot be written (File too large)" in said and f"--resume={folder}" in said
    assert updates(folder) == 2
    assert not list(folder.rglob("*.part"))


def test_a_log_folder_that_cannot_be_written_to(tmp_path, in_update, capsys):
    (tmp_path / "file").write_text("")
    status, said = ended(capsys, tmp_path / "file", "--max_steps=6")
    assert status == 2 and "--log_dir" in said

    def replace():
        shutil.move(tmp_path / RUN / "checkpoints", tmp_path / "moved")
        (tmp_path / RUN / "checkpoints").write_text("a file in the way")

    in_update(4, replace)
    status, said = ended(capsys, tmp_path, "--max_steps=6")
    assert status == 2 and "checkpoints" in said


def test_a_run_goes_on_without_wandb_when_it_fails(tmp_path, monkeypatch, capsys):
    import wandb

    class Dead:
        def define_metric(self, *args, **kwargs):
            pass

        def log(self, values):
            raise BrokenPipeError("the connection is gone")

    monkeypatch.setattr(wandb, "init", lambda **kwargs: Dead())
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = run(tmp_path, "--max_steps=4", "--wandb")
    sentence = "Weights & Biases has failed (the connection is gone): the run goes on without it."
    assert capsys.readouterr().err.count(sentence) == 1
    assert RunFolder(folder).is_finished


def test_a_killed_data_worker(tmp_path, in_update, capsys):
    def kill():
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    in_update(4, kill)
    status, said = ended(capsys, tmp_path, "--max_steps=60", "--num_workers=1", "--limit_val_batches=0")
    assert status == 1
    assert "A process that draws data has ended" in said and f"--resume={tmp_path / RUN}" in said
    assert updates(tmp_path / RUN) == 2


@pytest.fixture
def pictures(tmp_path):
    """Flags of a run on pictures, whose folder they name."""
    write_random_class_folders(tmp_path / "data", classes=2, images=3)
    flags = ["--data_class=ImageFolders", f"--data_dir={tmp_path / 'data'}", "--image_size=16", "--model_class=Conv4"]
    flags += ["--width=2", "--gpus=0", "--batch_size=1", "--episode_classes=2", "--query_samples=1"]
    flags += ["--test_query_samples=1", "--inner_loop_steps=1", "--test_inner_loop_steps=1", "--val_episodes=2"]
    return [*flags, "--test_episodes=2", "--val_check_interval=2", "--max_steps=4", f"--log_dir={tmp_path / 'logs'}"]


def test_a_data_folder_that_vanishes_does_not_cost_the_test(pictures, tmp_path, in_update):
    in_update(3, lambda: shutil.rmtree(tmp_path / "data"))
    assert run_experiment.main(pictures)["episodes"] == 2


def test_a_store_that_is_cut_short_in_use(pictures, tmp_path, in_update, capsys):
    in_update(4, lambda: os.truncate(next((tmp_path / "data" / ".few_shot").rglob("train.npy")), 1000))
    in_update(3, lambda: os.truncate(next((tmp_path / "data" / ".few_shot").rglob("val.npy")), 1000))
    with pytest.raises(SystemExit) as exit_:
        run_experiment.main(pictures)
    assert exit_.value.code == 2
    assert "was cut short while it was in use" in capsys.readouterr().err
    assert updates(next(tmp_path.glob("logs/*/version_0"))) == 2


def test_the_rows_of_the_metrics_are_those_of_the_updates(finished):
    rows = list(csv.DictReader((finished / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row["train_loss"]] == [0, 1, 2, 3]
    assert json.loads((finished / "run.json").read_text())["seconds"].keys() == {"training", "test"}
