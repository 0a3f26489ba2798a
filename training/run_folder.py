"""A run's folder: the one place that knows its files, writes them and reads them."""

import csv
import io
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from few_shot.checkpoint import WEIGHTS, callback_states, find_checkpoint, read_any
from few_shot.errors import BadInput
from few_shot.evaluation import EpisodeResults, read_episodes, write_episodes
from few_shot.figure_style import save
from few_shot.files import given_path
from few_shot.metrics import METRICS
from few_shot.records import Damaged, fits, read_figure, read_head, read_json, read_table
from few_shot.whole_files import CannotWrite, remove_unfinished, sync, write_together, write_whole
from training import slurm
from training.settings import as_settings, read_settings
from training.terminal import is_first_process, say
from training.world import World

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Hands the run's number from the process that started the run to those it launches.
VERSION_VARIABLE = "FEW_SHOT_RUN_VERSION"

#: A result, which is undefined where too few episodes count.
NUMBER = (float, int, None)
#: The forms of ``run.json`` and ``test_metrics.json``. The part of a run that is under way has no cost yet.
FACTS: dict[str, Any] = {
    "command": (str, [str], None),
    "commit": (str, None),
    "python": (str, None),
    "versions": ({str: str}, None),
    "device": (str, None),
    "threads": (int, None),
    "updates": (int, None),
    "seconds": ({str: int}, None),
    "finished": (bool, None),
    "slurm_job": (str, None),
}
RESULT: dict[str, Any] = {
    "metric": tuple(METRICS),
    "episodes": int,
    "per_step": [{"step": int, "mean": NUMBER, "ci95": NUMBER}],
    "mean": NUMBER,
    "diverged": int,
    "transductive": bool,
    "ensemble": ({"members": int, "mean": NUMBER, "ci95": NUMBER}, None),
    "pictures": (str, None),
}


class RunFolder:
    """``<log_dir>/<data>-<algorithm>/version_<n>``, or a copy of it, or of its record, anywhere.

    ============================== ====================================================================
    ``config.yaml``                every flag's value; usable as ``--config``
    ``run.json``                   command, commit, versions, device, updates and seconds
    ``data.json``                  of images: each split's classes, how they were split, what was left out
    ``metrics.csv``                what was logged, one row each time; a resumed run goes on in it
    ``events.out.tfevents.*``      the same for TensorBoard, with the pictures
    ``checkpoints/``               ``last.ckpt`` and the best by validation, ``best-step=<updates>.ckpt``;
                                   later ones, set aside when the run went on from an earlier one, are in
                                   ``after_step=<updates>/``
    ``test_metrics.json``          the test's result
    ``test_episodes.csv``          the test's result, episode by episode; ``ensemble_episodes.csv`` likewise
    ``curves.png``, ``steps.png``  pictures, each as ``.svg`` too: training and validation, the test against inner
                                   steps; ``fit`` or ``sheet``, a test task; ``gradients``, if they were logged
    ``report.html``                all of this on one page
    ``test_<n>query.json``         in a published result: the result of a test with n queries
    ============================== ====================================================================

    Writing methods write in the first process only. A file that is rewritten is written whole; rows are added to
    ``metrics.csv``, and one that a kill has torn is read past.
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
        parent = given_path(log_dir, "log_dir") / name
        if resume is not None:
            resumed = RunFolder.going_on_from(resume)
            if resumed is not None:
                return resumed
        if VERSION_VARIABLE in os.environ:
            return RunFolder(parent / f"version_{os.environ[VERSION_VARIABLE]}")
        number = _make_next(parent, log_dir) if world is None else world.from_first(lambda: _make_next(parent, log_dir))
        return RunFolder(parent / f"version_{number}")

    @staticmethod
    def of(checkpoint: Path | str) -> "RunFolder | None":
        """The run that a checkpoint, or the folder of a run, belongs to; None where it has no log beside it."""
        path = given_path(checkpoint, "checkpoint").absolute()
        folders = [path, path.parent.parent]
        return next((RunFolder(folder) for folder in folders if (folder / "metrics.csv").is_file()), None)

    @staticmethod
    def going_on_from(checkpoint: Path | str) -> "RunFolder | None":
        """The folder of the run that goes on from a checkpoint; None where it does not lie in one."""
        folder = RunFolder(Path(checkpoint).resolve().parent.parent)
        is_run = (folder.path / "config.yaml").is_file() and re.fullmatch(r"version_\d+", folder.path.name)
        return folder if is_run else None

    @staticmethod
    def latest(log_dir: Path | str, name: str) -> "RunFolder | None":
        """The run of an experiment that was started last, in the folder of all runs; None if there is none."""
        found = [RunFolder(p) for p in (Path(log_dir) / name).glob("version_*") if p.name[8:].isdigit()]
        return max(found, key=lambda folder: folder.number, default=None)

    @staticmethod
    def newest(log_dir: str) -> "RunFolder":
        """The run below a folder that has written last.

        Raises:
            BadInput: there is none.
        """
        if not (found := RunFolder.all(log_dir)):
            raise BadInput(f"--resume=last finds no run in --log_dir={log_dir}.")
        return found[-1]

    @staticmethod
    def all(log_dir: str) -> "list[RunFolder]":
        """The runs below a folder, in the order in which they have written last."""
        found = {path: path.stat().st_mtime for path in given_path(log_dir, "log_dir").glob("*/version_*/run.json")}
        return [RunFolder(path.parent) for path in sorted(found, key=lambda path: found[path])]

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
        if is_launched():
            yield
            return
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
        resumed_from: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Write what the run is: every flag's value, command, commit, versions, device, classes.

        Args:
            resumed_from: the checkpoint that the run goes on from, if it was resumed. What was logged of later updates
                is removed: the run is about to do those again. So is what a kill has left behind.
            data: what the data module says of its data (``record()``).

        Raises:
            CannotWrite: it cannot be written; then no file has changed.
        """
        if not is_first_process():
            return
        packages = ("torch", "torchvision", "pytorch-lightning", "numpy")
        facts = {
            "command": ["python", *sys.argv],
            "commit": _commit(),
            "python": platform.python_version(),
            "versions": {package: version(package) for package in packages},
            "device": device,
            "threads": torch.get_num_threads(),
            **({"slurm_job": slurm.job()} if slurm.job() else {}),
        }
        contents: dict[str, str | bytes] = {"config.yaml": yaml.safe_dump(config, sort_keys=False)}
        if data:
            text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
            contents["data.json"] = text.encode(errors="backslashreplace")  # names of folders are not always text
        if resumed_from is not None:
            if (self.path / "run.json").is_file():
                facts["resumed"] = self.facts()
            if rows := self._rows():
                kept = [row for row in rows if self._is_done(row, resumed_from["global_step"])]
                contents["metrics.csv"] = _as_csv(kept, list(rows[0]))
        contents["run.json"] = json.dumps(facts, indent=2) + "\n"
        write_together({self.path / name: content for name, content in contents.items()})
        if resumed_from is not None:
            self._clean(resumed_from)

    def branch(self, checkpoint: Path) -> None:
        """Go on from a checkpoint that may not be the last: set later ones aside, and make it the last.

        They are moved to ``checkpoints/after_step=<updates>`` (the second time ``…_2``), which no command looks into.
        """
        if not is_first_process() or not self.last_checkpoint.is_file() or checkpoint.samefile(self.last_checkpoint):
            return
        content, updates = checkpoint.read_bytes(), read_checkpoint(checkpoint, "resume")["global_step"]
        with suppress(BadInput):  # a last one that is damaged was passed over, and is written anew
            if read_checkpoint(self.last_checkpoint, "resume")["global_step"] <= updates:
                return
            later = [path for update, path in self.kept().items() if update > updates and path != self.last_checkpoint]
            first = aside = self.checkpoints / f"after_step={updates}"
            again = 1
            while aside.exists():
                again += 1
                aside = first.with_name(f"{first.name}_{again}")
            aside.mkdir()
            write_whole(aside / self.last_checkpoint.name, self.last_checkpoint.read_bytes())
            write_whole(self.last_checkpoint, content)
            for path in later:
                path.replace(aside / path.name)

    def _is_done(self, row: Mapping[str, Any], updates: int) -> bool:
        """Whether a row of metrics.csv is of what need not be done again after so many updates."""
        of_test_under_way = _is_of_test(row) and int(row["step"]) == updates and not self.is_finished
        return _updates_seen(row) <= updates and not of_test_under_way

    def _clean(self, resumed_from: dict[str, Any]) -> None:
        """Remove what a kill has left: files that are not whole, and best checkpoints that were to be removed."""
        for folder in (self.path, self.checkpoints):
            remove_unfinished(folder)
        known = {Path(path).name for path in _scores(resumed_from)}
        for path in self.checkpoints.glob("best-step=*.ckpt"):
            update = path.stem.removeprefix("best-step=")
            if known and path.name not in known and update.isdigit() and int(update) < resumed_from["global_step"]:
                path.unlink()

    def add_cost(self, updates: int, **seconds: float) -> None:
        """Add to ``run.json`` the outer updates that the weights have seen, and the seconds that a part has taken."""
        if not is_first_process():
            return
        facts = self.facts()
        facts["updates"] = updates
        facts.setdefault("seconds", {}).update({part: round(value) for part, value in seconds.items()})
        self._write_facts(facts)

    def finish(self) -> None:
        """Say in ``run.json`` that everything is done: the last thing that a run writes."""
        if is_first_process():
            self._write_facts(self.facts() | {"finished": True})

    def _write_facts(self, facts: dict[str, Any]) -> None:
        write_whole(self.path / "run.json", json.dumps(facts, indent=2) + "\n")

    def append_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to ``metrics.csv``. A name that is new becomes a new column, empty in the rows before.

        Raises:
            CannotWrite: they cannot be written.
        """
        if not rows or not is_first_process():
            return
        path = self.path / "metrics.csv"
        columns = read_head(path) if path.exists() else []
        new = list(dict.fromkeys(name for row in rows for name in row if name not in columns))
        if new:
            write_whole(path, _as_csv([*self._rows(), *rows], [*columns, *new]))
            return
        try:
            with path.open("a", newline="") as file:
                csv.DictWriter(file, columns).writerows(rows)
        except OSError as error:
            raise CannotWrite(path, error) from error

    def sync_metrics(self) -> None:
        """Have the disk keep what was logged so far, before a checkpoint is written that counts on it."""
        sync(self.path / "metrics.csv")

    def _rows(self) -> list[dict[str, str]]:
        """What was logged; each row has the number of its step."""
        path = self.path / "metrics.csv"
        rows = read_table(path) if path.exists() else []
        if not all(row.get("step", "").isdecimal() and len(row["step"]) < 20 for row in rows):
            raise Damaged(path, "a row has no step")
        return rows

    def write_results(self, summary: dict[str, Any], episodes: dict[str, EpisodeResults]) -> None:
        """Write a test's summary and, for each name in ``episodes``, ``<name>_episodes.csv``."""
        if not is_first_process():
            return
        if "ensemble" not in episodes:
            (self.path / "ensemble_episodes.csv").unlink(missing_ok=True)  # of a test before
        for name, results in episodes.items():
            write_episodes(results, summary["metric"], self.path / f"{name}_episodes.csv")
        write_whole(self.path / "test_metrics.json", json.dumps(summary, indent=2) + "\n")

    def write_picture(self, name: str, figure: "Figure") -> Path:
        """Write a picture as PNG and SVG; returns the PNG's path."""
        files = [self.path / f"{name}.{ending}" for ending in ("png", "svg")]
        save(figure, *files)
        return files[0]

    def write_report(self, page: str) -> Path:
        """Write ``report.html``."""
        path = self.path / "report.html"
        write_whole(path, page)
        return path

    # Reading.

    def config(self) -> dict[str, Any]:
        """Every flag's value."""
        return read_settings(self.path / "config.yaml", str(self.path / "config.yaml"))

    def facts(self) -> dict[str, Any]:
        """Command, commit, versions, device, updates and seconds; below ``resumed``, those of the part before.

        They are empty where the file is damaged: they describe the run, and nothing that it does depends on them.
        """
        try:
            return read_json(self.path / "run.json", FACTS)
        except Damaged:
            return {}

    @property
    def is_finished(self) -> bool:
        """Whether the run, since it was last started or resumed, has come to its end: test, pictures and report."""
        return self.facts().get("finished", False)

    @property
    def is_tested(self) -> bool:
        """Whether it has come to its end, with a test of what it has come to."""
        return self.is_finished and self.result() is not None and not self.has_old_test

    def flags_not_recorded(self, config: Mapping[str, Any]) -> list[str]:
        """The flags of a run that its record does not have: it is resumed with them, and has not begun."""
        known = self.config() if (self.path / "config.yaml").is_file() else dict(config)
        now = yaml.safe_load(yaml.safe_dump(dict(config)))  # as a record has it
        new = {flag: value for flag, value in now.items() if flag != "resume" and known.get(flag) != value}
        return [f"--{flag}={'null' if value is None else value}" for flag, value in new.items()]

    @property
    def has_old_test(self) -> bool:
        """Whether its test is of before it was resumed, and its training has not ended since."""
        facts = self.facts()
        return self.result() is not None and "resumed" in facts and "test" not in facts.get("seconds", {})

    def parts(self) -> list[dict[str, Any]]:
        """The facts of a run and of what it was resumed from, in the order in which they ran."""
        parts: list[Any] = [self.facts()]
        while fits(before := parts[0].get("resumed"), FACTS):
            parts.insert(0, before)
        return parts

    def result(self) -> dict[str, Any] | None:
        """The test's summary; None if there is none."""
        path = self.path / "test_metrics.json"
        return read_json(path, RESULT) if path.is_file() else None

    def published_results(self) -> dict[int, dict[str, Any]]:
        """The summaries of a published result's tests, by their numbers of queries; none in a run's own folder."""
        names = [re.fullmatch(r"test_(\d+)query\.json", path.name) for path in self.path.glob("test_*query.json")]
        found = sorted((int(name[1]), self.path / name[0]) for name in names if name)
        return {queries: read_json(path, RESULT) for queries, path in found}

    def test_classes(self) -> list[str] | None:
        """The classes of the test; None where they are not on record, or there are no classes."""
        path = self.path / "data.json"
        data = read_json(path, {"classes": ({"test": [str]}, None)}) if path.is_file() else {}
        return (data.get("classes") or {}).get("test")

    def episodes(self) -> EpisodeResults | None:
        """The test's result, episode by episode; None if there is none."""
        path = self.path / "test_episodes.csv"
        return read_episodes(path) if path.is_file() else None

    def picture(self, name: str) -> str | None:
        """A picture, as SVG; None if it was not drawn."""
        path = self.path / f"{name}.svg"
        return read_figure(path) if path.is_file() else None

    def kept(self) -> dict[int, Path]:
        """The checkpoints that the run kept, by their outer updates, the earliest first."""
        best = {path.stem.partition("=")[2]: path for path in self.checkpoints.glob("best-step=*.ckpt")}
        found = {int(update): path for update, path in best.items() if update.isdecimal()}
        if self.last_checkpoint.is_file():
            found.setdefault(read_checkpoint(self.last_checkpoint, "checkpoint")["global_step"], self.last_checkpoint)
        return dict(sorted(found.items()))

    def gradient_histograms(self) -> dict[str, list[tuple[int, NDArray]]]:
        """For each parameter, the outer updates at which its gradient was logged, and its values then.

        Values are ``[buckets, 2]``: the middle of each of TensorBoard's buckets, and how many elements it holds.
        """
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.path), size_guidance={"histograms": 0})
        events.Reload()
        found = {}
        for tag in events.Tags()["histograms"]:
            if tag.startswith("gradients/"):
                found[tag.removeprefix("gradients/")] = [
                    (event.step + 1, _middles_and_counts(event.histogram_value)) for event in events.Histograms(tag)
                ]
        return found

    def curve(self, name: str) -> list[tuple[int, float]]:
        """What was logged under a name: pairs of outer updates and value; none if it was not logged."""
        rows = self._rows()
        try:
            return [(_updates_seen(row), float(row[name])) for row in rows if row.get(name)]
        except ValueError as error:
            raise Damaged(self.path / "metrics.csv", error) from error


def _middles_and_counts(histogram: Any) -> NDArray:
    """A histogram of TensorBoard's: each bucket by its upper end, the first from the least value on."""
    upper = np.minimum(histogram.bucket_limit, histogram.max)
    lower = np.maximum([histogram.min, *histogram.bucket_limit[:-1]], histogram.min)
    counts = np.asarray(histogram.bucket)
    return np.stack([(lower + upper) / 2, counts], axis=1)[counts > 0]


def _updates_seen(row: Mapping[str, Any]) -> int:
    """The outer updates of the weights that a row of metrics.csv is about.

    Lightning numbers the updates of training and validation from 0, and logs the test with how many there were.
    """
    return int(row["step"]) + (0 if _is_of_test(row) else 1)


def _is_of_test(row: Mapping[str, Any]) -> bool:
    return any(value and name.startswith(("test_", "ensemble_")) for name, value in row.items())


def _as_csv(rows: Sequence[Mapping[str, Any]], columns: list[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _commit() -> str | None:
    """This code's commit, marked if it was changed since; None outside a git repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return None
    return done.stdout.strip() or None


def is_launched() -> bool:
    """Whether this process was launched by the run's first process, by Lightning."""
    return VERSION_VARIABLE in os.environ and not is_first_process()


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
    path = given_path(path, f"--{flag}")
    if not path.exists():
        raise BadInput(f"--{flag}={path} does not exist.")
    try:
        file = find_checkpoint(path)
        checkpoint = read_any(file)
        if file.name == WEIGHTS:
            checkpoint["config"] = RunFolder(file.parent).config()
        if "config" not in checkpoint:
            way = f": in Python, few_shot.load({str(file)!r}).score(data) tests it" if "few_shot" in checkpoint else ""
            raise BadInput(f"{file} does not say a run's flags{way}.")
        checkpoint["config"] = as_settings(checkpoint["config"], f"{file}, in its config,")
        if path.is_dir() and (path / "config.yaml").is_file():  # what the run was resumed with since holds too
            checkpoint["config"] |= RunFolder(path).config()
    except BadInput as error:
        raise BadInput(f"--{flag}={path} is no checkpoint of this project: {error}") from error
    return checkpoint


def check_resumable(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuse to go on from a checkpoint that holds weights, but not the state of a training.

    Raises:
        BadInput: it is one.
    """
    state: dict[str, Any] = {"global_step": int, "optimizer_states": [dict], "lr_schedulers": [dict], "loops": dict}
    state |= {"callbacks": {str: dict}, "pytorch-lightning_version": str}
    lacking = [key for key, form in state.items() if not fits(checkpoint.get(key), form)]
    if lacking or not checkpoint["optimizer_states"]:
        what = (lacking or ["optimizer_states"])[0]
        raise BadInput(f"--resume={path} cannot be continued: it does not hold the state of a training ({what}).")


def find_resumed(path: str, log_dir: str) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that ``--resume`` means, and the run's settings.

    Args:
        path: a checkpoint; a run's folder, whose newest checkpoint is taken that can be read; or ``last``, which is the
            run in ``log_dir`` that has written last.
        log_dir: folder of all runs.

    Raises:
        BadInput: there is no checkpoint to go on from.
    """
    named = given_path(path, "--resume")
    if path != "last" and not named.is_dir():
        try:
            return named, read_checkpoint(named, "resume")["config"]
        except BadInput as error:
            if RunFolder.going_on_from(named) is None or not named.is_file():
                raise
            raise BadInput(
                f"{error} --resume={named.parent.parent} goes on from the newest that can be read."
            ) from error
    folder = RunFolder.newest(log_dir) if path == "last" else RunFolder(named)
    place = folder.checkpoints if folder.checkpoints.is_dir() else folder.path
    names = sorted(place.glob("best-step=*.ckpt"), key=lambda p: (len(p.name), p.name), reverse=True)
    for file in [place / "last.ckpt", *names]:
        try:
            content = read_checkpoint(file, "resume")
        except BadInput:
            if file.is_file():
                say(f"{file} is damaged and passed over for the checkpoint before it.")
            continue
        # What a run was resumed with holds from then on, also where it was killed before its next checkpoint.
        of_run = folder.config() if (folder.path / "config.yaml").is_file() else {}
        return file, content["config"] | of_run
    raise BadInput(f"--resume={path}: {folder.path} holds no checkpoint yet; start the run anew.")


def run_of_job(log_dir: str, config: Mapping[str, Any]) -> str | None:
    """The folder of the run that this job of SLURM began before it was queued again; None if there is no checkpoint.

    Args:
        log_dir: folder of all runs.
        config: the run's settings: a job may have runs of several.
    """
    settings = yaml.safe_load(yaml.safe_dump(dict(config)))  # as a run's record has them
    of_job = (run for run in RunFolder.all(log_dir) if run.facts().get("slurm_job") == slurm.job())
    found = [run for run in of_job if run.last_checkpoint.is_file() and run.config() == settings]
    return str(found[-1].path) if found else None


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


def _scores(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The validation scores of the run's best checkpoints, by path, as a checkpoint names them."""
    scores: dict[str, Any] = {}
    for state in callback_states(checkpoint):
        scores |= state.get("best_k_models", {})
    return scores


def ensemble_of(folder: Path, most: int, mode: str) -> list[dict[str, Any]]:
    """The weights of a run's best checkpoints by validation, best first.

    Args:
        folder: the run's checkpoints.
        most: how many; all of them where there are fewer.
        mode: ``max`` or ``min``.

    Raises:
        BadInput: there are none.
    """
    last = folder / "last.ckpt"
    scores = _scores(read_checkpoint(last, "ensemble")) if last.is_file() else {}
    paths = [path for path, _ in ranked(scores, folder, mode)[:most]]
    if not paths:
        raise BadInput(
            f"--ensemble={most} finds no validated checkpoints of a run, with its last.ckpt, in {folder}: "
            "--ensemble=0 tests one model alone."
        )
    if len(paths) < most:
        say(f"--ensemble={most}: the run kept {len(paths)} validated checkpoints, so the ensemble has {len(paths)}.")
    return [read_checkpoint(path, "ensemble")["state_dict"] for path in paths]
