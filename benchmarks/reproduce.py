"""Train the rows of the results table one after the other, at the lowest priority.

python benchmarks/reproduce.py --data=data          # goes on where it was stopped, until no row is left
python benchmarks/reproduce.py --list               # what is done, and what is left
python benchmarks/reproduce.py --keep               # puts what started rows go on from into the repository

A row is trained by the code of the commit at which it started, in a clone outside the repository, so that work on the
code does not touch it. A row that was stopped goes on from its last checkpoint. A row that the queue does not have goes
on from ``benchmarks/started/<row>``, where there is one. A finished row's weights are tested by the code of today, and
its record goes to ``benchmarks/results/<row>``.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml

from benchmarks.results_table import RESULTS, ROWS, Row, read_rows
from few_shot.checkpoint import WEIGHTS, callback_states, save_learner
from few_shot.errors import BadInput
from few_shot.evaluation import read_episodes
from training.command_line import parse
from training.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
#: What a training goes on from, of its folder; the last checkpoint, which names the best, before that.
STATE = [
    "commit",
    *(f"logs/*/version_0/{name}" for name in ("config.yaml", "run.json", "data.json", "metrics.csv")),
    *(f"logs/*/version_0/checkpoints/{name}" for name in ("last.ckpt", "best-*.ckpt")),
]
#: The status of a program that SIGTERM has ended.
STOPPED = 128 + signal.SIGTERM
STARTED = Path(__file__).parent / "started"
QUEUE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "few_shot" / "reproduce"


class Training:
    """A row's training in the queue's folder: ``runs/<row>/`` holds its commit, its output and its run.

    ``started/<row>/`` holds as much of it as another machine needs to go on.
    """

    def __init__(self, row: Row, queue: Path, results: Path, started: Path, nice: int = 19) -> None:
        self.row, self.queue, self.nice = row, queue.resolve(), nice
        self.folder, self.target, self.kept = self.queue / "runs" / row.name, results / row.name, started / row.name

    @property
    def run(self) -> Path | None:
        """The run's own folder, once there is one: the queue's, or the kept one if that has done more updates."""
        return _run_in(self.kept if self.kept_is_ahead else self.folder)

    @property
    def kept_is_ahead(self) -> bool:
        """Whether another machine has done more updates, and left in the repository what it goes on from."""
        return _updates(_run_in(self.kept)) > _updates(_run_in(self.folder))

    @property
    def last_checkpoint(self) -> Path | None:
        """What a stopped training goes on from."""
        path = self.run and self.run / "checkpoints" / "last.ckpt"
        return path if path and path.is_file() else None

    @property
    def best_checkpoint(self) -> Path | None:
        """The best one by validation, once there is one."""
        return self.run and next(self.run.glob("checkpoints/best-*.ckpt"), None)

    @property
    def is_trained(self) -> bool:
        """Whether its run has ended, its own test included."""
        return self.run is not None and (self.run / "test_metrics.json").is_file()

    @property
    def is_recorded(self) -> bool:
        """Whether its record is complete."""
        return all((self.target / f"test_{queries}query.json").is_file() for queries in self.row.tests)

    def parts(self) -> list[dict[str, Any]]:
        """What ``run.json`` says of the training, from its first start to its last."""
        return _parts(self.run)

    def seconds(self, part: str) -> int:
        """What a part of it has cost, over all starts."""
        return sum(p.get("seconds", {}).get(part, 0) for p in self.parts())

    def state(self) -> str:
        """Updates done, the best validation, and how long the rest takes at the pace so far."""
        if self.is_recorded:
            return "complete"
        if self.run is None or not self.parts():
            return "waiting"
        done, total = _updates(self.run), RunFolder(self.run).config()["max_steps"]
        text = f"{done} of {total} updates"
        if best := self.best_validation():
            text += f", best validation {best}"
        if self.is_trained:
            return text + ", trained: waits for its test"
        if done:
            text += f", {self.seconds('training') / done * (total - done) / 3600:.1f} h left"
        return text

    def best_validation(self) -> str | None:
        """The best validation result so far, of the part of the run that goes on."""
        if self.best_checkpoint is None:
            return None
        callbacks = torch.load(self.best_checkpoint, map_location="cpu", weights_only=True)["callbacks"].values()
        scores = [float(c["best_model_score"]) for c in callbacks if c.get("best_model_score") is not None]
        return f"{scores[0]:.4f}" if scores else None

    def train(self, data: Path) -> int:
        """Run it, or go on with it; returns the exit status.

        Raises:
            CalledProcessError: git does not find the commit at which the row was started.
        """
        if self.kept_is_ahead:
            new = self.folder.with_name(f".{self.folder.name}.{os.getpid()}")  # a copy that is cut off is none
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(self.kept, new)
            shutil.rmtree(self.folder, ignore_errors=True)
            new.rename(self.folder)
        code = self.code()
        link = code / "data"
        if link.is_symlink() and link.resolve() != data.resolve():
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(data.resolve())
        flags = [*shlex.split(self.row.flags), f"--log_dir={self.folder / 'logs'}"]
        if self.last_checkpoint is not None:
            flags.append(f"--resume={self.last_checkpoint}")
        elif self.run is not None:  # stopped before its first checkpoint
            with RunFolder(self.run).taken():  # not by another queue
                shutil.rmtree(self.run)
        temporary = self.folder / "tmp"  # on one file system with the checkpoints
        temporary.mkdir(exist_ok=True)
        environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": ""}
        with (self.folder / "output.txt").open("a") as output:
            return run_nicely(
                [sys.executable, "training/run_experiment.py", *flags], self.nice, code, environment, output
            )

    def keep(self) -> None:
        """Put what the training goes on from into ``started/<row>``, without paths of this machine.

        Raises:
            BadInput: the training has replaced its best checkpoint meanwhile.
        """
        if self.is_recorded or self.kept_is_ahead or self.last_checkpoint is None:
            return
        last = self.last_checkpoint.relative_to(self.folder)
        new = self.kept.with_name(f".{self.kept.name}")
        shutil.rmtree(new, ignore_errors=True)
        for pattern in STATE:
            for path in self.folder.glob(pattern):
                copy = new / path.relative_to(self.folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".ckpt":
                    torch.save(self.without_paths(torch.load(path, map_location="cpu", weights_only=True)), copy)
                else:
                    copy.write_text(self.without_paths(path.read_text()))
        states = callback_states(torch.load(new / last, map_location="cpu", weights_only=True))
        best = [Path(state["best_model_path"]) for state in states if state.get("best_model_path")]
        if not all((new / last).with_name(path.name).is_file() for path in best):
            shutil.rmtree(new)
            raise BadInput(f"{self.row.name} has gone on meanwhile: keep it once more.")
        shutil.rmtree(self.kept, ignore_errors=True)
        new.rename(self.kept)

    def without_paths(self, value: Any) -> Any:
        """A value, or all in a dict or list, whose strings give paths in the queue from the queue's folder."""
        if isinstance(value, str):
            return value.replace(f"{self.queue}/", "")
        if isinstance(value, dict):
            return {self.without_paths(key): self.without_paths(item) for key, item in value.items()}
        return [self.without_paths(item) for item in value] if isinstance(value, list) else value

    def code(self) -> Path:
        """A clone at the commit of the row's checkpoints; today's commit before the first one.

        Raises:
            CalledProcessError: this repository does not have the commit.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / "commit"
        if not note.is_file() or self.last_checkpoint is None:
            note.write_text(git("rev-parse", "HEAD", cwd=ROOT))
        commit = note.read_text()
        clone = self.queue / "code" / commit
        if not clone.is_dir():
            new = clone.with_name(f"new_{os.getpid()}")  # a clone that was cut off is none
            git("clone", "--quiet", "--no-checkout", str(ROOT), str(new), cwd=self.queue)
            git("checkout", "--quiet", commit, cwd=new)
            try:
                new.rename(clone)
            except OSError:
                if not clone.is_dir():
                    raise
                shutil.rmtree(new)  # another row, started at the same time, was faster
        return clone

    def record(self, data: Path) -> None:
        """Put weights, config, cost and tests into the row's record.

        Raises:
            CalledProcessError: today's code cannot test the weights.
        """
        checkpoint = self.best_checkpoint
        assert self.run is not None and checkpoint is not None
        target = self.target
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        config = RunFolder(self.run).config()
        data_flag = [f"--data_dir={data.resolve()}"] if "data_dir" in config else []
        config = {key: value for key, value in config.items() if key not in ("log_dir", "data_dir", "resume")}
        (target / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        data_module, lit_model = parse([f"--config={target / 'config.yaml'}"], "reproduce").modules()
        lit_model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        lit_model.remember_data(data_module)
        save_learner(lit_model, target / WEIGHTS)
        last = self.parts()[-1]
        facts = {
            "command": self.row.command,
            "commit": (self.folder / "commit").read_text(),
            **{key: last[key] for key in ("python", "versions", "device", "threads", "updates")},
            "best_update": int(checkpoint.stem.partition("=")[2]),
            "seconds": {part: self.seconds(part) for part in ("training", "test")},
        }
        (target / "run.json").write_text(json.dumps(facts, indent=2) + "\n")
        for queries in self.row.tests:
            self.test(target, queries, data_flag)
        shutil.rmtree(self.kept, ignore_errors=True)

    def test(self, target: Path, queries: int, data_flag: list[str]) -> None:
        """Write ``test_<queries>query.json`` and each episode's result at the last step."""
        output = self.folder / f"test_{queries}"
        flags = [f"--checkpoint={target}", f"--test_query_samples={queries}", *data_flag]
        if queries in self.row.episodes:
            flags.append(f"--test_episodes={self.row.episodes[queries]}")
        command = [sys.executable, "training/evaluate.py", *flags, f"--output_dir={output}"]
        if status := run_nicely(command, self.nice, ROOT, dict(os.environ)):
            raise subprocess.CalledProcessError(status, command)
        metrics = json.loads((output / "test_metrics.json").read_text())
        (target / f"test_{queries}query.json").write_text(json.dumps(metrics, indent=2) + "\n")
        with (target / f"test_{queries}query.csv").open("w") as short:
            short.write(f"episode,{metrics['metric']}\n")
            for episode, result in read_episodes(output / "test_episodes.csv").by_episode(metrics["metric"]).items():
                short.write(f"{episode},{result:.6g}\n")


def _run_in(folder: Path) -> Path | None:
    return next(folder.glob("logs/*/version_0"), None)


def _parts(run: Path | None) -> list[dict[str, Any]]:
    return RunFolder(run).parts() if run and (run / "run.json").is_file() else []


def _updates(run: Path | None) -> int:
    return -1 if run is None else max((part.get("updates", 0) for part in _parts(run)), default=0)


def git(*words: str, cwd: Path) -> str:
    """What a git command prints."""
    return subprocess.run(["git", *words], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


#: A thread that waits for work sleeps, so that others have its core. It spins for a moment first, because work comes
#: thousands of times a second: two threads that had to be woken each time were as slow as one.
WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "30000"}


def run_nicely(
    command: list[str], nice: int, folder: Path, environment: dict[str, str], output: TextIO | None = None
) -> int:
    """Run a command at a low priority; it ends when this process is told to end. Returns its exit status.

    Where Linux groups processes by session (autogroup), nice counts only within a session. So the command gets a
    session of its own, which is made nice as a whole.
    """

    def yield_to_everybody() -> None:
        os.nice(nice)
        autogroup = Path("/proc/self/autogroup")
        if autogroup.exists():
            autogroup.write_text(str(nice))

    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment | WAITING,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=yield_to_everybody,
    )
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """List the rows, or train and test what is left of them."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder that holds the data sets")
    parser.add_argument("--queue", type=Path, default=QUEUE, help="folder for clones, runs and logs")
    parser.add_argument("--rows", type=Path, default=ROWS, help="file with the rows")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the records")
    parser.add_argument("--started", type=Path, default=STARTED, help="folder for what started rows go on from")
    parser.add_argument("--row", help="the name of one row; all by default")
    parser.add_argument("--nice", type=int, default=19, help="priority, from 0 (as usual) to 19 (the lowest)")
    parser.add_argument("--list", action="store_true", help="only say how far each row is")
    parser.add_argument("--keep", action="store_true", help="only put what started rows go on from into --started")
    options = parser.parse_args(arguments)
    everything = [of_a_seed for row in read_rows(options.rows) for of_a_seed in row.of_each_seed()]
    rows = [row for row in everything if options.row in (None, row.name)]
    if not rows:
        names = ", ".join(row.name for row in everything)
        parser.error(f"--row={options.row} is unknown: choose one of {names}.")
    folders = options.queue, options.results, options.started
    trainings = [Training(row, *folders, options.nice) for row in rows]
    if options.keep:
        for training in trainings:
            try:
                training.keep()
            except BadInput as error:
                print(error, flush=True)
    if options.list or options.keep:
        for training in trainings:
            print(f"{training.row.name:36} {training.state()}")
        return
    options.queue.mkdir(parents=True, exist_ok=True)
    failed = []
    for training in trainings:
        if training.is_recorded:
            continue
        print(f"{training.row.name}: {training.state()}", flush=True)
        try:
            if training.is_trained:
                training.record(options.data)
                continue
            status = training.train(options.data)
            if status == 0:  # in a new process: this one's code may be older by hours than the files it would import
                own = [*(sys.argv[1:] if arguments is None else arguments), f"--row={training.row.name}"]
                status = run_nicely([sys.executable, __file__, *own], 0, Path.cwd(), dict(os.environ))
            if status == 0:
                continue
        except (subprocess.CalledProcessError, BadInput, RuntimeError, SystemExit) as error:
            if getattr(error, "code", None) == STOPPED:
                raise
            print(getattr(error, "stderr", None) or error, flush=True)
            status = getattr(error, "returncode", 1)
            (training.target / WEIGHTS).unlink(missing_ok=True)
        print(f"{training.row.name}: ended with status {status}; see {training.folder / 'output.txt'}", flush=True)
        failed.append(training.row.name)
    if failed:
        sys.exit(f"not complete: {', '.join(failed)}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    main()
