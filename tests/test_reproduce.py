"""The queue of the results table: what it lists, that it goes on where it was stopped, and what it leaves."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks import reproduce, results_table
from benchmarks.reproduce import Training
from benchmarks.results_table import Row, compare, read_rows
from few_shot import Sinusoid, load
from few_shot.evaluation import read_episodes
from few_shot.models import SinusoidMLP
from training import evaluate
from training.command_line import parse
from training.report import EPISODES

ROOT = Path(__file__).parents[1]
ROW = Row(
    name="tiny",
    title="Tiny",
    flags="--data_class=Sinusoid --max_steps=400 --val_check_interval=50 --test_episodes=20 --val_episodes=20",
    tests={100: None},
    source=None,
    steps=[1, 10],
)


def test_every_row_is_a_command_the_parser_takes():
    rows = read_rows()
    assert len({row.name for row in rows}) == len(rows) > 10
    for row in rows:
        config = parse(row.flags.split(), "test").config
        assert config["max_steps"] > 0, row.name
        assert next(of.flags for of in row.of_each_seed()) == row.flags
        if row.table and config["data_class"] != "Sinusoid":
            assert 15 in row.tests and len(row.tests) == 2, "at the paper's number of queries, and at 15"
            assert config["val_episodes"] == 600 or config["max_steps"] <= 2000, "long rows validate on 600 episodes"


def test_rows_that_are_compared_have_the_same_test_episodes():
    rows = {row.name: row for row in read_rows()}
    compared = [row for row in rows.values() if row.against]
    assert len(compared) >= 6
    for row in compared:
        ours, theirs = (parse(of.flags.split(), "test").config for of in (row, rows[row.against]))
        assert theirs["lit_model_class"] == "LitMAML"
        for flag in EPISODES:
            assert ours.get(flag) == theirs.get(flag), f"{row.name}: {flag}"
        for queries in row.tests:
            tests = [results_table.RESULTS / name / f"test_{queries}query.json" for name in (row.name, row.against)]
            pictures = {json.loads(path.read_text())["pictures"] for path in tests if path.is_file()}
            assert len(pictures) <= 1, f"{row.name}: not the pictures of {row.against}, or in another order"


def test_a_complete_row_has_its_weights():
    for row in read_rows():
        folder = results_table.RESULTS / row.name
        if folder.is_dir():
            assert (folder / "weights.safetensors").stat().st_size < 2_000_000
            assert {f"test_{queries}query.json" for queries in row.tests} <= {p.name for p in folder.iterdir()}


def test_the_weights_of_every_record_give_its_numbers(tmp_path):
    records = sorted(path.parent for path in results_table.RESULTS.glob("*/weights.safetensors"))
    assert len(records) > 40
    for record in records:
        learner = load(record)  # which needs the file alone
        if isinstance(learner.lit_model.model, SinusoidMLP) and not record.name[-1].isdigit():  # others need pictures
            evaluate.main([f"--checkpoint={record}", "--gpus=0", "--test_episodes=8", f"--output_dir={tmp_path}"])
            found = read_episodes(tmp_path / "test_episodes.csv").by_episode("mse")
            recorded = results_table.by_episode(record / "test_100query.csv")
            assert found == pytest.approx({episode: recorded[episode] for episode in range(8)}, rel=1e-4), record.name


def test_a_paired_difference_is_by_hand(tmp_path):
    (tmp_path / "a.csv").write_text("episode,accuracy\n0,0.5\n1,0.7\n2,0.9\n7,1\n")
    (tmp_path / "b.csv").write_text("episode,accuracy\n2,0.6\n1,0.5\n0,0.4\n")
    found = compare(tmp_path / "a.csv", tmp_path / "b.csv")  # differences 0.1, 0.2, 0.3
    assert found == pytest.approx({"mean": 0.2, "ci95": 1.96 * 0.1 / 3**0.5, "episodes": 3})


def test_the_machine_that_has_done_more_counts(tmp_path):
    training = Training(ROW, tmp_path / "queue", tmp_path / "results", tmp_path / "started")
    runs = {}
    for folder, updates in ((training.folder, 300), (training.kept, 450)):
        runs[updates] = folder / "logs" / "tiny" / "version_0"
        runs[updates].mkdir(parents=True)
        (runs[updates] / "run.json").write_text(json.dumps({"updates": updates}))
        assert training.run == runs[updates]
    training.keep()  # what is ahead is not replaced
    assert training.run == runs[450]
    (runs[300] / "run.json").write_text(json.dumps({"updates": 600}))
    assert training.run == runs[300]


class Queue:
    """The queue of a machine: its trainings, its records and what it keeps in the repository."""

    def __init__(self, folder: Path, started: Path) -> None:
        rows = folder.with_suffix(".yaml")
        rows.write_text(yaml.safe_dump([vars(ROW)]))
        self.folder = folder
        self.training = Training(ROW, folder, folder / "results", started)
        self.flags = [f"--rows={rows}", f"--queue={folder}", f"--results={folder / 'results'}"]
        self.flags += [f"--started={started}", f"--data={folder.parent}", "--nice=0"]


def test_two_rows_that_start_at_once_share_a_clone(tmp_path, monkeypatch):
    one, other = (Training(ROW, tmp_path / "queue", tmp_path / "results", tmp_path / name) for name in ("a", "b"))

    def git(command, *arguments, cwd):
        if command == "clone":
            Path(arguments[-1], "code").mkdir(parents=True)
        return "0123abcd"

    def git_while_the_other_is_faster(*arguments, cwd):
        if arguments[0] == "clone":
            monkeypatch.setattr(reproduce, "git", git)
            monkeypatch.setattr(reproduce.os, "getpid", lambda: 1)
            other.code()
        return git(*arguments, cwd=cwd)

    monkeypatch.setattr(reproduce, "git", git_while_the_other_is_faster)
    clone = one.code()
    assert list(clone.parent.iterdir()) == [clone] == [other.code()]


def test_a_row_keeps_its_commit_from_its_first_checkpoint_on(tmp_path, monkeypatch):
    training = Training(ROW, tmp_path / "queue", tmp_path / "results", tmp_path / "started")
    commits = []
    for today, has_checkpoint in (("a", False), ("b", False), ("c", True)):
        if has_checkpoint:
            checkpoint = training.folder / "logs" / "tiny" / "version_0" / "checkpoints" / "last.ckpt"
            checkpoint.parent.mkdir(parents=True)
            checkpoint.touch()
        (training.queue / "code" / today).mkdir(parents=True)
        monkeypatch.setattr(reproduce, "git", lambda *arguments, cwd, today=today: today)
        commits.append(training.code().name)
    assert commits == ["a", "b", "b"]


def test_sigterm_ends_the_queue(tmp_path, monkeypatch):
    """It does not go on with the next row."""
    trained = []

    def stopped(training, data):
        trained.append(training.row.name)
        raise SystemExit(reproduce.STOPPED)

    monkeypatch.setattr(Training, "train", stopped)
    with pytest.raises(SystemExit, match="143"):
        reproduce.main([f"--queue={tmp_path / 'queue'}", f"--results={tmp_path}", f"--started={tmp_path}"])
    assert len(trained) == 1


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the queue clones the repository")
def test_a_row_that_is_stopped_and_moved_leaves_the_record_of_one_never_stopped(tmp_path):
    started = tmp_path / "started"
    first, second, third = (Queue(tmp_path / name, started) for name in ("first", "second", "third"))
    assert first.training.state() == "waiting"
    reproduce.main(first.flags)

    process = subprocess.Popen([sys.executable, "benchmarks/reproduce.py", *second.flags], cwd=ROOT)
    while second.training.last_checkpoint is None:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    state = second.training.state()
    assert not second.training.is_trained and "of 400 updates, best validation" in state

    reproduce.main([*second.flags, "--keep"])
    for path in filter(Path.is_file, started.rglob("*")):
        assert str(second.folder).encode() not in path.read_bytes(), path
    shutil.rmtree(second.folder)
    assert third.training.state() == state
    reproduce.main(third.flags)
    assert not list(started.iterdir())

    records = [queue.training.target for queue in (first, third)]
    assert {queue.training.state() for queue in (first, third)} == {"complete"}
    for name in ("config.yaml", "weights.safetensors", "test_100query.json", "test_100query.csv"):
        assert (records[0] / name).read_bytes() == (records[1] / name).read_bytes()
    runs = [json.loads((record / "run.json").read_text()) for record in records]
    for run in runs:
        assert run.pop("seconds")["training"] > 0
    assert runs[0] == runs[1] and runs[0]["command"] == ROW.command
    again = evaluate.main([f"--checkpoint={records[0]}", "--gpus=0"])
    recorded = json.loads((records[0] / "test_100query.json").read_text())
    assert again == recorded
    score = load(records[0]).score(Sinusoid(support_samples=10, test_episodes=20))
    assert score.mean == pytest.approx(recorded["mean"], rel=1e-6)
