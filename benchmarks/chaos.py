"""Kill runs at random moments, resume them, and count what is lost and what differs from a run never stopped.

python benchmarks/chaos.py --runs=100

Each run is a process of its own that trains and tests on the sinusoid. A third of them are killed after a random time,
a third at a random step of writing a file (before it is written, half written, before and after it gets its name), and
a third are stopped with SIGTERM. A run that has a checkpoint is resumed, one that has none starts again, and may be
killed again; the last start is left alone. Every second run has its TMPDIR on another file system.
"""

import argparse
import csv
import io
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.utils.tensorboard  # what a run imports late: here once, and not in each of its processes

from few_shot import whole_files
from training import run_experiment
from training.run_folder import RunFolder

FLAGS = ["--data_class=Sinusoid", "--gpus=0", "--width=4", "--batch_size=2", "--val_episodes=3", "--test_episodes=3"]
FLAGS += ["--test_inner_loop_steps=1", "--val_check_interval=3", "--max_steps=20", "--log_every_n_steps=1"]
FLAGS += ["--ensemble=2"]
#: How a run is ended, with its status then; SIGTERM is a plain end for a process that has not begun.
STATUS = {"a kill": {-9}, "a kill in writing": {-9}, "SIGTERM": {143, -15}}
#: Another file system than that of the runs, where this machine has one.
ELSEWHERE = Path("/dev/shm")


def start(flags: Sequence[str], set_up: Callable[[], None]) -> int:
    """Start a run in a process of its own, forked from this one, which has everything imported; returns its number."""
    if pid := os.fork():
        return pid
    status = 1
    with suppress(BaseException):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        torch.set_num_threads(1)
        set_up()
        try:
            run_experiment.main(flags)
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
    os._exit(status)


def end(pid: int) -> int:
    """Wait for a process; its exit status, or minus the signal that has killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_in_writing(moment: int) -> Callable[[], None]:
    """A process that is set up with this kills itself at so many steps of writing files."""

    def set_up() -> None:
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1
            if steps == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        sync, replace, write = os.fsync, Path.replace, whole_files._write

        def fsync(number: int) -> None:
            step()
            sync(number)

        def rename(self: Path, target: Any) -> Path:
            step()
            found = replace(self, target)
            step()
            return found

        def write_in_halves(path: Path, content: bytes, keep: bool) -> None:
            step()
            path.write_bytes(content[: len(content) // 2])
            step()
            write(path, content, keep)

        os.fsync, Path.replace, whole_files._write = fsync, rename, write_in_halves  # type: ignore[method-assign, assignment]

    return set_up


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run has come to but for times: files, weights, optimizer, metrics, the test."""
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    rows = csv.DictReader(io.StringIO((folder / "metrics.csv").read_text()))
    return {
        "files": sorted(p.name for p in folder.rglob("*") if "tfevents" not in p.name),
        "weights": {name: value.numpy().tobytes() for name, value in last["state_dict"].items()},
        "optimizer": repr(last["optimizer_states"]),
        "metrics": [{name: value for name, value in row.items() if value} for row in rows],
        **{name: (folder / name).read_bytes() for name in ("test_metrics.json", "test_episodes.csv")},
    }


class Chaos:
    """Runs that are killed, and what has become of them.

    Args:
        place: folder for the runs.
        seed: of the moments at which they are killed.
    """

    def __init__(self, place: Path, seed: int = 0) -> None:
        self.place, self.random = place, random.Random(seed)
        began = time.monotonic()
        assert self._start(place / "never", [], lambda: None) == 0, "a run that nobody stops must end well"
        self.seconds = time.monotonic() - began
        self.never = outcome(self._folders(place / "never")[-1])
        self.kills: Counter[str] = Counter()
        self.lost: list[str] = []
        self.different: list[str] = []

    def _start(self, log_dir: Path, resume: list[str], set_up: Callable[[], None]) -> int:
        return end(start([*FLAGS, f"--log_dir={log_dir}", *resume], set_up))

    @staticmethod
    def _folders(log_dir: Path) -> list[Path]:
        return sorted(log_dir.glob("*/version_*"), key=lambda path: RunFolder(path).number)

    def run(self, number: int, times: int = 3) -> None:
        """One run: at most so many times killed, and then left to end."""
        log_dir = self.place / f"run_{number}"
        elsewhere = ELSEWHERE.is_dir() and number % 2
        for _ in range(times):
            if self._killed_start(log_dir, str(ELSEWHERE if elsewhere else self.place)) == 0:
                break  # it was over before the moment came
        name = f"run {number}, {log_dir}"
        status = self._start(log_dir, self._resume(log_dir), lambda: None)
        if status:
            self.lost.append(f"{name}: status {status}")
        elif (found := outcome(self._folders(log_dir)[-1])) != self.never:
            wrong = [key for key, value in found.items() if value != self.never[key]]
            self.different.append(f"{name}: {', '.join(wrong)}")

    def _resume(self, log_dir: Path) -> list[str]:
        """The flag that goes on with what there is; none where there is no checkpoint."""
        folders = self._folders(log_dir)
        return [f"--resume={folders[-1]}"] if folders and RunFolder(folders[-1]).last_checkpoint.is_file() else []

    def _killed_start(self, log_dir: Path, temporary: str) -> int:
        kind = self.random.choice(list(STATUS))
        kill = kill_in_writing(self.random.randrange(1, 150)) if kind == "a kill in writing" else lambda: None

        def set_up() -> None:
            tempfile.tempdir = temporary
            kill()

        pid = start([*FLAGS, f"--log_dir={log_dir}", *self._resume(log_dir)], set_up)
        if kind != "a kill in writing":
            time.sleep(self.random.uniform(0, self.seconds))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL)
        status = end(pid)
        if status in STATUS[kind]:
            self.kills[kind] += 1
        elif status:
            self.lost.append(f"{log_dir}: status {status} after {kind}")
        return status


def main(argv: Sequence[str] | None = None) -> Chaos:
    """Kill so many runs, and print what has become of them; the status is 1 where one is lost or differs."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        chaos = Chaos(Path(place), arguments.seed)
        for number in range(arguments.runs):
            chaos.run(number)
            kills = ", ".join(f"{n} by {kind}" for kind, n in sorted(chaos.kills.items()))
            end_of_line = "\n" if number + 1 == arguments.runs else "\r"
            print(f"{number + 1} runs, stopped {chaos.kills.total()} times ({kills})", end=end_of_line, flush=True)
    print("\n".join([*chaos.lost, *chaos.different]), end="\n" * bool(chaos.lost or chaos.different))
    print(f"lost: {len(chaos.lost)}, different from a run never stopped: {len(chaos.different)}")
    return chaos


if __name__ == "__main__":
    found = main()
    sys.exit(bool(found.lost or found.different))
