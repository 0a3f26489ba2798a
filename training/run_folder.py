"""A run's folder: the one place that knows its files, writes them and reads them."""

import csv
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from few_shot.checkpoint import WEIGHTS, find_checkpoint, read
from few_shot.errors import BadInput
from few_shot.evaluation import EpisodeResults, write_episodes
from training.terminal import is_first_process, say
from training.world import World

#: Hands the run's number from the process that started the run to those it launches.
VERSION_VARIABLE = "FEW_SHOT_RUN_VERSION"


class RunFolder:
    """``<log_dir>/<data>-<algorithm>/version_<n>``, or a copy of it, or of its record, anywhere.

    ============================== ====================================================================
    ``config.yaml``                every flag's value; usable as ``--config``
    ``run.json``                   command, commit, versions, device, updates and seconds
    ``data.json``                  of images: each split's classes, how they were split, what was left out
    ``metrics.csv``                what was logged, one row each time; a resumed run goes on in it
    ``events.out.tfevents.*``      the same for TensorBoard, with the pictures
    ``checkpoints/``               ``last.ckpt`` and the best by validation, ``best-step=<updates>.ckpt``
    ``test_metrics.json``          the test's result
    ``test_episodes.csv``          the test's result, episode by episode; ``ensemble_episodes.csv`` likewise
    ``curves.png``, ``fit.png``    pictures
    ============================== ====================================================================

    Writing methods write in the first process only.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @staticmethod
    def start(log_dir: str, name: str, resume: str | None = None, world: World | None = None) -> "RunFolder":
        """The folder of a run that starts now, made by the first process, which tells the others.

        Args:
            log_dir: folder of all runs.
            name: the experiment's name; the run's number comes below it.
            resume: the checkpoint of a run to go on with, in that run's folder.
            world: the run's processes; None for this one alone.

        Raises:
            BadInput: the folder cannot be made.
        """
        parent = Path(log_dir) / name
        if resume is not None:
            resumed = RunFolder(Path(resume).absolute().parent.parent)
            if (resumed.path / "config.yaml").is_file() and re.fullmatch(r"version_\d+", resumed.path.name):
                return resumed
        if VERSION_VARIABLE in os.environ:
            return RunFolder(parent / f"version_{os.environ[VERSION_VARIABLE]}")
        number = _make_next(parent, log_dir) if world is None else world.from_first(lambda: _make_next(parent, log_dir))
        return RunFolder(parent / f"version_{number}")

    @property
    def number(self) -> int:
        """The run's number among those of its experiment."""
        return int(self.path.name.removeprefix("version_"))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @contextmanager
    def shared_with_launched_processes(self) -> Iterator[None]:
        """Processes that are launched in here write into this folder too."""
        os.environ[VERSION_VARIABLE] = str(self.number)
        try:
            yield
        finally:
            del os.environ[VERSION_VARIABLE]

    def where_it_stands(self) -> str:
        """A sentence on the checkpoint to go on from."""
        last = self.last_checkpoint
        return f"The last good checkpoint is {last}." if last.is_file() else "There is no checkpoint yet."

    @contextmanager
    def taken(self) -> Iterator[None]:
        """No other run writes into this folder in here. The lock ends with the process, however that ends.

        Raises:
            BadInput: another run does now.
        """
        lock = self.path / ".lock"
        with ExitStack() as stack:
            if is_first_process():
                try:
                    stack.enter_context(FileLock(lock, timeout=0))
                    stack.callback(lock.unlink, missing_ok=True)  # while it is held still
                except Timeout:
                    raise BadInput(
                        f"A run is writing into {self.path} just now: wait until it has ended, or stop it."
                    ) from None
                except (NotImplementedError, OSError):  # some cluster file systems have no locks
                    pass
            yield

    # Writing.

    def record(
        self,
        config: dict[str, Any],
        device: str,
        resumed_at: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Write what the run is: every flag's value, command, commit, versions, device, classes.

        Args:
            resumed_at: outer updates that the run had done when it was resumed. What was logged of later ones is
                removed: the run is about to do those again.
            data: what the data module says of its data (``record()``).
        """
        if not is_first_process():
            return
        if resumed_at is not None:
            self._forget_metrics_after(resumed_at)
        (self.path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        if data:
            (self.path / "data.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        packages = ("torch", "torchvision", "pytorch-lightning", "numpy")
        facts = {
            "command": ["python", *sys.argv],
            "commit": _commit(),
            "python": platform.python_version(),
            "versions": {package: version(package) for package in packages},
            "device": device,
            "threads": torch.get_num_threads(),
        }
        path = self.path / "run.json"
        if path.exists():  # a resumed run: what came before
            facts["resumed"] = json.loads(path.read_text())
        path.write_text(json.dumps(facts, indent=2) + "\n")

    def add_cost(self, updates: int, **seconds: float) -> None:
        """Add to ``run.json`` the outer updates that the weights have seen, and the seconds that a part has taken."""
        if not is_first_process():
            return
        path = self.path / "run.json"
        facts = json.loads(path.read_text())
        facts["updates"] = updates
        facts.setdefault("seconds", {}).update({part: round(value) for part, value in seconds.items()})
        path.write_text(json.dumps(facts, indent=2) + "\n")

    def append_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to ``metrics.csv``. A name that is new becomes a new column, empty in the rows before."""
        if not rows or not is_first_process():
            return
        path = self.path / "metrics.csv"
        columns: list[str] = []
        if path.exists():
            with path.open(newline="") as file:
                columns = next(csv.reader(file), [])
        new = list(dict.fromkeys(name for row in rows for name in row if name not in columns))
        if new:
            self._write_metrics([*self._rows(), *rows], [*columns, *new])
            return
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerows(rows)

    def _forget_metrics_after(self, updates: int) -> None:
        rows = self._rows()
        if rows:
            self._write_metrics([row for row in rows if _updates_seen(row) <= updates], list(rows[0]))

    def _rows(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write_metrics(self, rows: Sequence[Mapping[str, Any]], columns: list[str]) -> None:
        whole = self.path / "metrics.csv.new"
        with whole.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        whole.replace(self.path / "metrics.csv")

    def write_results(self, summary: dict[str, Any], episodes: dict[str, EpisodeResults]) -> None:
        """Write a test's summary and, for each name in ``episodes``, ``<name>_episodes.csv``."""
        if not is_first_process():
            return
        (self.path / "test_metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
        for name, results in episodes.items():
            write_episodes(results, summary["metric"], self.path / f"{name}_episodes.csv")

    # Reading.

    def config(self) -> dict[str, Any]:
        """Every flag's value."""
        return yaml.safe_load((self.path / "config.yaml").read_text())

    def facts(self) -> dict[str, Any]:
        """Command, commit, versions, device, updates and seconds; below ``resumed``, those of the part before."""
        return json.loads((self.path / "run.json").read_text())

    def parts(self) -> list[dict[str, Any]]:
        """The facts of a run and of what it was resumed from, in the order in which they ran."""
        parts = [self.facts()]
        while "resumed" in parts[0]:
            parts.insert(0, parts[0]["resumed"])
        return parts

    def result(self) -> dict[str, Any]:
        """The test's summary."""
        return json.loads((self.path / "test_metrics.json").read_text())

    def curve(self, name: str) -> list[tuple[int, float]]:
        """What was logged under a name: pairs of outer updates and value; none if it was not logged."""
        return [(_updates_seen(row), float(row[name])) for row in self._rows() if row.get(name)]


def _updates_seen(row: Mapping[str, Any]) -> int:
    """The outer updates of the weights that a row of metrics.csv is about.

    Lightning numbers the updates of training and validation from 0, and logs the test with how many there were.
    """
    tested = any(value and name.startswith(("test_", "ensemble_")) for name, value in row.items())
    return int(row["step"]) + (0 if tested else 1)


def _commit() -> str | None:
    """This code's commit, marked if it was changed since; None outside a git repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return None
    return done.stdout.strip() or None


def _make_next(parent: Path, log_dir: str) -> str:
    """Make the folder of the next run, which no other run that starts just now gets; returns its number."""
    make_folder(parent, "log_dir")
    try:
        number = 1 + max((int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdigit()), default=-1)
        while True:
            try:
                (parent / f"version_{number}").mkdir()
                return str(number)
            except FileExistsError:
                number += 1
    except OSError as error:
        raise BadInput(f"--log_dir={log_dir} cannot be written to ({error.strerror}).") from error


def make_folder(path: Path, flag: str) -> None:
    """Make a folder, or raise BadInput with the name of the flag that asks for it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--{flag}: {path} cannot be made ({error.strerror}).") from error


def read_checkpoint(path: str | Path, flag: str) -> dict[str, Any]:
    """The content of a checkpoint: plain values and tensors only.

    Args:
        path: a checkpoint, a run's folder (its best checkpoint by validation is read) or a published result's.
        flag: the flag that names the checkpoint, for messages.

    Raises:
        BadInput: the file is not there, or is no checkpoint of this project.
    """
    try:
        file = find_checkpoint(path)
        if file.name == WEIGHTS:
            checkpoint = {"config": RunFolder(file.parent).config(), **read(file)}
        else:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        _ = checkpoint["config"], checkpoint["state_dict"]
    except BadInput as error:
        raise BadInput(f"--{flag}={path} cannot be read: {error}") from error
    except FileNotFoundError:
        raise BadInput(f"--{flag}={path} does not exist.") from None
    except Exception as error:
        raise BadInput(f"--{flag}={path} is no checkpoint of this project ({type(error).__name__}).") from error
    return checkpoint


def data_record(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the data that it was trained on; nothing where it is older, or a published result's."""
    return checkpoint.get("few_shot", {}).get("data") or {}


def ranked(scores: Mapping[str, Any], folder: Path, mode: str) -> list[tuple[str, Any]]:
    """Checkpoints with their validation scores, best first.

    Args:
        scores: score by path, as the run wrote them. A run may have been moved since: only the file names count.
        folder: where the checkpoints are now; those that are not there are left out.
        mode: ``max`` or ``min``.
    """
    here = {folder / Path(path).name: score for path, score in scores.items()}
    found = [(str(path), score) for path, score in here.items() if path.is_file()]
    return sorted(found, key=lambda item: float(item[1]), reverse=mode == "max")


def ensemble_of(folder: Path, most: int, mode: str) -> list[dict[str, Any]]:
    """The weights of a run's best checkpoints by validation, best first.

    Args:
        folder: the run's checkpoints.
        most: how many; all of them where there are fewer.
        mode: ``max`` or ``min``.

    Raises:
        BadInput: there are none.
    """
    scores: dict[str, Any] = {}
    if (folder / "last.ckpt").is_file():
        for state in read_checkpoint(folder / "last.ckpt", "ensemble")["callbacks"].values():
            scores |= state.get("best_k_models", {})
    paths = [path for path, _ in ranked(scores, folder, mode)[:most]]
    if not paths:
        raise BadInput(
            f"--ensemble={most} finds no validated checkpoints of a run, with its last.ckpt, in {folder}: "
            "--ensemble=0 tests one model alone."
        )
    if len(paths) < most:
        say(f"--ensemble={most}: the run kept {len(paths)} validated checkpoints, so the ensemble has {len(paths)}.")
    return [read_checkpoint(path, "ensemble")["state_dict"] for path in paths]
