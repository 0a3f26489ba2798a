"""From a command line to a resolved experiment: which classes, with which arguments.

A value comes from the first of: a flag; ``--config``; the algorithm's row for this dataset, ways and shots; its row for
all of them; the dataset's protocol for these ways and shots; its protocol (all four in
``training/configs/<data class>/``); the constructor. Flags are the constructors' arguments, with their help, so a new
class needs no code here.
"""

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import jsonargparse
import pytorch_lightning as pl
import yaml
from pytorch_lightning.strategies import StrategyRegistry
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import nn

import few_shot.data
import few_shot.lit_models
import few_shot.models
from few_shot.arguments import weights_follow
from few_shot.episodes import Split
from few_shot.errors import BadInput, TrainingDiverged, above_zero, at_least
from few_shot.lit_models.base import LitMetaLearner
from training.weights import read_checkpoint

CONFIGS = Path(__file__).parent / "configs"

#: Bases, which are no choice of their own.
ABSTRACT = {"EpisodeDataModule", "ImageEpisodes", "LitMetaLearner"}

#: What a run fills in itself: the sizes and the metric come from the data module, the seed from the run.
FILLED_IN = {
    "data_class": {"seed"},
    "model_class": {"input_shape", "output_size"},
    "lit_model_class": {"model", "metric"},
}


@dataclass
class RunOptions:
    """How to run.

    Args:
        log_dir: folder under which every run gets its own.
        seed: drives the initial weights and the training episodes.
        gpus: -1 for all there are (at most one a task), 0 for none, 2 for two, 0,3 for those.
        num_processes: CPU processes that share each meta-batch.
        strategy: how processes work together, by Lightning's name; auto is ddp for more than one.
        accelerator: cpu, gpu or auto; ddp is the old spelling of --strategy=ddp.
        precision: number format of the training, 32 or 64 bits or bf16-mixed.
        max_steps: outer updates.
        val_check_interval: outer updates between validations; the last update is always followed by one.
        limit_train_batches: end the training after this many outer updates even if max_steps is more.
        limit_val_batches: batches of episodes in a validation, at most; 0 for no validation.
        limit_test_batches: batches of episodes in the test, at most; 0 for no test.
        log_every_n_steps: outer updates between two logged training losses; None for 50, or fewer in a short run.
        ensemble: keep this many checkpoints, the best by validation, and test their ensemble too (bare: 5); 0 for the
            best alone.
        stop_early: stop when this many validations in a row bring nothing better (bare: 5); 0 never stops early.
        deterministic: whether to use deterministic algorithms only.
        compile: whether to compile the meta-training step (first step slower, the others faster).
        fast_dev_run: whether to run one update, one validation and one test batch, to try things out; writes nothing.
        profile: whether to write a profile of the run beside its logs.
        resume: checkpoint to go on from; its settings hold unless a flag says otherwise.
        keep_memory: whether freed memory stays with the process instead of going back to the system after every
            operation (Linux, CPU), which made a step of mini-ImageNet twice as fast.
        wandb: whether to log to Weights & Biases too; offline if there is no network or no key.
        track_grad_norm: log the outer gradient's norm of this order, before clipping; None not to.
        log_gradient_histograms: whether to log a histogram of each parameter's outer gradient.
    """

    log_dir: str = "logs"
    seed: int = 0
    gpus: str = "-1"
    num_processes: int = 1
    strategy: str = "auto"
    accelerator: Literal["auto", "cpu", "gpu", "ddp"] = "auto"
    precision: Literal["32", "64", "bf16", "32-true", "64-true", "bf16-mixed"] = "32"
    max_steps: int = 60_000
    val_check_interval: int = 1000
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    limit_test_batches: int | None = None
    log_every_n_steps: int | None = None
    ensemble: int = 0
    stop_early: int = 0
    deterministic: bool = False
    compile: bool = False
    fast_dev_run: bool = False
    profile: bool = False
    resume: str | None = None
    keep_memory: bool = True
    wandb: bool = False
    track_grad_norm: float | None = None
    log_gradient_histograms: bool = False

    def __post_init__(self) -> None:
        for name in ("num_processes", "max_steps", "val_check_interval", "limit_train_batches", "log_every_n_steps"):
            value = getattr(self, name)
            if value is not None:
                at_least(1, value, name)
        above_zero("track_grad_norm", self.track_grad_norm)
        if self.strategy != "auto" and self.strategy not in StrategyRegistry.available_strategies():
            raise BadInput(f"--strategy={self.strategy} is unknown: Lightning knows ddp and others by name.")
        if self.seed >= 2**32:
            raise BadInput(f"--seed={self.seed} is too large: seeds are below 2**32.")
        for name in ("limit_val_batches", "limit_test_batches", "ensemble", "stop_early", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise BadInput(f"--{name}={value} must not be negative.")
        if self.ensemble and self.limit_val_batches == 0:
            raise BadInput(
                f"--ensemble={self.ensemble} is of the best by validation, and --limit_val_batches=0 is none."
            )


@dataclass
class Experiment:
    """A resolved command line."""

    classes: dict[str, type]  # by flag: data_class, model_class, lit_model_class
    arguments: dict[str, dict[str, Any]]  # each class's constructor arguments, by the same flags
    options: RunOptions
    extra: dict[str, Any]  # values of the flags that the calling script added
    config: dict[str, Any]  # everything, flat and plain: what config.yaml and checkpoints hold
    resumed_from: dict[str, Any]  # the config of the checkpoint that --resume names

    def modules(self) -> tuple[Any, Any]:
        """The data module, which has not looked for its data, and the algorithm around a model of the data's sizes.

        All random numbers start from the run's seed.
        """
        pl.seed_everything(self.options.seed, workers=True, verbose=False)
        data = self.classes["data_class"](seed=self.options.seed, **self.arguments["data_class"])
        with weights_follow() if self.resumed_from else nullcontext():
            model = self.classes["model_class"](
                input_shape=data.input_shape, output_size=data.output_size, **self.arguments["model_class"]
            )
        lit_model = self.classes["lit_model_class"](
            model=model, metric=data.metric, **self.arguments["lit_model_class"]
        )
        if self.options.compile:
            lit_model.compile_outer_step()
        return data, lit_model

    def build(self, test_split: Split | None = None) -> tuple[Any, Any]:
        """What :meth:`modules` makes, with the data found and checked.

        Args:
            test_split: the split to test on, if nothing is to be trained.

        Raises:
            BadInput: a value is out of its range, or the data cannot be found or used.
        """
        data, lit_model = self.modules()
        train_ways, ways = (getattr(data, k, None) for k in ("train_episode_classes", "episode_classes"))
        if lit_model.fixed_ways and train_ways != ways:
            raise BadInput(
                f"--train_episode_classes={train_ways} and --episode_classes={ways} must agree: "
                f"{type(lit_model).__name__} trains a head of one size."
            )
        data.test_split = test_split or data.test_split
        if is_first_process():  # Lightning would find bad data later, and with a traceback
            data.prepare_data()
            data.setup("fit" if test_split is None else "test")
        return data, lit_model


#: The flags of this process's command lines.
_offered: set[str] = set()


class _Parser(jsonargparse.ArgumentParser):
    """Says what is wrong in one sentence and exits with status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(str(message).split())
        if unknown := re.match(r"unrecognized arguments: (\S+)", message, flags=re.IGNORECASE):
            flag = unknown[1].split("=")[0]
            close = difflib.get_close_matches(flag, [o for a in self._actions for o in a.option_strings], n=1)
            message = f"unknown flag {flag} for the chosen classes" + (f"; did you mean {close[0]}?" if close else ".")
        elif wrong := re.search(r'Parser key "(\w+)": (.*)', message):
            message = f"--{wrong[1]}: " + re.sub(r"<class '(\w+)'>", r"\1", wrong[2])
        fail(self.prog, message)


def is_first_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return getattr(rank_zero_only, "rank", 0) == 0


def fail(program: str, message: str) -> NoReturn:
    """Print one sentence and exit with status 2."""
    if is_first_process():
        print(f"{program}: error: {message}", file=sys.stderr)
    sys.exit(2)


@contextmanager
def clear_errors() -> Iterator[None]:
    """End with one sentence, not with a traceback: status 2 for bad input, 1 for a training that diverged."""
    try:
        yield
    except BadInput as error:
        # The library names arguments, inner_lr=-1; on the command line they are flags.
        message = re.sub(r"(?<![\w.,/=-])(\w+)=", lambda m: f"{'--' * (m[1] in _offered)}{m[0]}", str(error))
        fail(Path(sys.argv[0]).name, message)
    except TrainingDiverged as error:
        if is_first_process():
            print(error, *getattr(error, "__notes__", []), file=sys.stderr)
        sys.exit(1)


def parse(
    argv: Sequence[str] | None,
    description: str,
    extra: type | None = None,
    settings_from: str = "resume",
) -> Experiment:
    """Resolve a command line; ``--help`` prints the flags of the chosen classes and exits.

    Args:
        argv: the command line without the program's name; None for this process's own.
        description: what the program does, for ``--help``.
        extra: a dataclass whose fields are further flags.
        settings_from: the flag that names a checkpoint; its run's settings come right below ``--config``.

    Raises:
        BadInput: a class, a config file or a value cannot be used.
        SystemExit: status 2 for a flag that does not exist or whose value has the wrong type.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    flags = _choices(argv, settings_from)
    checkpoint, config_file = flags.pop(settings_from, None), flags.pop("config", None)
    from_file = _read_config(config_file)
    checkpoint = checkpoint or from_file.get(settings_from)
    from_checkpoint = {} if checkpoint is None else checkpoint_config(checkpoint, settings_from)
    chosen = from_checkpoint | from_file | flags
    parser = _Parser(prog=Path(sys.argv[0]).name, description=description, allow_abbrev=False)
    parser.add_argument("--config", type=str | None, help="YAML file with any of these flags; flags win")
    parser.add_argument("--data_class", type=str | None, help=f"data set: {_names(few_shot.data)}, or a dotted path")
    parser.add_argument("--model_class", type=str | None, help=f"backbone: {_names(few_shot.models)}, or a dotted path")
    algorithms = f"algorithm: {_names(few_shot.lit_models)}, or a dotted path"
    parser.add_argument("--lit_model_class", type=str, default="LitMAML", help=algorithms)
    known = set(_add_arguments(parser, RunOptions)) | {"data_class", "model_class", "lit_model_class"}
    extra_names = [] if extra is None else _add_arguments(parser, extra)
    if "data_class" not in chosen and {"-h", "--help"} & set(argv):
        parser.description = f"{description} Choose the classes to see their flags too."
        parser.parse_args(["--help"])

    if extra is not None and checkpoint is None:
        raise BadInput(f"--{settings_from} is missing: name a checkpoint.")

    classes, protocol = _choose_classes(chosen)
    names = {}
    for flag, cls in classes.items():
        names[flag] = _add_arguments(parser, cls, FILLED_IN[flag] | set(getattr(cls, "unused", ())), known)
        known |= set(names[flag])
    _offered.update(known)
    _accept_bare_flags(parser)
    if unknown := set(from_file) - known:
        raise BadInput(f"--config={config_file}: {min(unknown)} is no flag of the chosen classes.")

    loss = {"loss": getattr(classes["data_class"], "loss", "cross_entropy")}
    defaults = {k: v for k, v in (loss | protocol | from_checkpoint | from_file).items() if k in known}
    if checkpoint is not None:
        defaults[settings_from] = checkpoint
    # Parsed like flags, so that they are checked like flags; then --help shows them as the defaults that they are.
    parser.set_defaults(parser.parse_args([f"--{k}={_as_flag(v)}" for k, v in defaults.items()]).as_dict())
    values = parser.parse_args(argv).as_dict()
    return Experiment(
        classes=classes,
        arguments={flag: {k: values[k] for k in names[flag]} for flag in classes},
        options=RunOptions(**{f.name: values[f.name] for f in fields(RunOptions)}),
        extra={k: values[k] for k in extra_names},
        config={k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if k in known - {"resume"}},
        resumed_from=from_checkpoint,
    )


def _choose_classes(chosen: dict[str, Any]) -> tuple[dict[str, type], dict[str, Any]]:
    """The classes that the flags, or else the protocol, name; and what of the protocol holds for them."""
    if "data_class" not in chosen:
        raise BadInput(f"--data_class is missing: choose one of {_names(few_shot.data)}.")
    data_class = _find(chosen["data_class"], few_shot.data, few_shot.data.EpisodeDataModule, "data_class")
    protocol = _protocol(chosen) if data_class.__module__.startswith("few_shot.") else {}
    chosen = {"lit_model_class": "LitMAML"} | protocol | chosen
    if "model_class" not in chosen:
        raise BadInput(f"--model_class is missing: choose one of {_names(few_shot.models)}.")
    model_class = _find(chosen["model_class"], few_shot.models, nn.Module, "model_class")
    lit_model_class = _find(chosen["lit_model_class"], few_shot.lit_models, LitMetaLearner, "lit_model_class")
    if chosen["model_class"] != protocol.get("model_class"):  # another model's width says nothing of this one's
        own = getattr(few_shot.models, protocol.get("model_class", ""), None)
        others = set() if own is None else set(_argument_names(own))
        protocol = {k: v for k, v in protocol.items() if k not in others}
    protocol |= {k: chosen[k] for k in ("data_class", "model_class", "lit_model_class")}
    classes = {"data_class": data_class, "model_class": model_class, "lit_model_class": lit_model_class}
    for flag, cls in classes.items():
        if missing := FILLED_IN[flag] - set(_argument_names(cls)):
            raise BadInput(f"--{flag}={chosen[flag]} cannot be used: its constructor must take {min(missing)}.")
    return classes, protocol


def _choices(argv: Sequence[str], settings_from: str) -> dict[str, Any]:
    """The flags that decide which others there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in ("config", settings_from, "data_class", "model_class", "lit_model_class"):
        parser.add_argument(f"--{flag}")
    for flag in ("episode_classes", "support_samples"):
        parser.add_argument(f"--{flag}", type=lambda text: int(text) if text.isdigit() else text)
    try:
        return vars(parser.parse_known_args(list(argv))[0])
    except SystemExit:
        raise BadInput("a flag is missing its value.") from None


def checkpoint_config(path: str, flag: str) -> dict[str, Any]:
    """The resolved flags of the run that wrote a checkpoint.

    Raises:
        BadInput: the file is not there, or is no checkpoint of this project.
    """
    try:
        return read_checkpoint(path)["config"]
    except FileNotFoundError:
        raise BadInput(f"--{flag}={path} does not exist.") from None
    except Exception as error:
        raise BadInput(f"--{flag}={path} is no checkpoint of this project ({type(error).__name__}).") from error


def _read_config(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise BadInput(f"--config={path} cannot be read ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise BadInput(f"--config={path} is not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict):
        raise BadInput(f"--config={path} must hold flags, one 'name: value' a line.")
    return content


def _protocol(chosen: dict[str, Any]) -> dict[str, Any]:
    """The dataset's protocol, overlaid with the algorithm's rows; each for all ways and shots, and for the chosen."""
    folder = CONFIGS / str(chosen["data_class"]).rpartition(".")[2]
    if not (folder / "protocol.yaml").is_file():
        return {}
    protocol = _read_config(str(folder / "protocol.yaml"))
    ways, shots = ({**protocol, **chosen}.get(k) for k in ("episode_classes", "support_samples"))
    algorithm = str(chosen.get("lit_model_class", "LitMAML")).rpartition(".")[2]
    task = f"{ways}way_{shots}shot"
    for name in (task, algorithm, f"{algorithm}_{task}"):
        row = folder / f"{name}.yaml"
        protocol = protocol | (_read_config(str(row)) if row.is_file() else {})
    return protocol


def _names(package: Any) -> str:
    return ", ".join(name for name in package.__all__ if name not in ABSTRACT)


def _find(name: str, package: Any, base: type, flag: str) -> type:
    """A class by its bare name in one of our packages or by its dotted path."""
    module, _, bare = str(name).rpartition(".")
    sys.path.insert(0, "")  # a class of the user's own may lie where the command is run
    try:
        found = getattr(importlib.import_module(module) if module else package, bare, None)
    except ImportError as error:
        raise BadInput(f"--{flag}={name} cannot be imported ({error}).") from error
    finally:
        sys.path.remove("")
    if not (isinstance(found, type) and issubclass(found, base)) or bare in ABSTRACT:
        raise BadInput(
            f"--{flag}={name} is unknown: choose one of {_names(package)}, or the dotted path of a {base.__name__}."
        )
    return found


def _argument_names(cls: type) -> list[str]:
    return jsonargparse.ArgumentParser().add_class_arguments(cls, None, fail_untyped=False)


def _add_arguments(
    parser: jsonargparse.ArgumentParser, cls: type, filled_in: Set[str] = frozenset(), known: Set[str] = frozenset()
) -> list[str]:
    """Add a class's constructor arguments as flags, but for those that the run fills in; returns their names.

    A flag that another class has added already is shared with it.
    """
    names = _argument_names(cls)
    parser.add_class_arguments(cls, None, skip=(filled_in | known) & set(names), fail_untyped=False)
    return [name for name in names if name not in filled_in]


def _accept_bare_flags(parser: jsonargparse.ArgumentParser) -> None:
    """Let ``--wandb`` mean ``--wandb=true``, and ``--stop_early`` a usual patience."""
    usual = {"ensemble": 5, "stop_early": 5, "track_grad_norm": 2.0}
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool or action.dest in usual:
            action.nargs, action.const = "?", usual.get(action.dest, True)


def _as_flag(value: Any) -> str:
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
