"""From a command line to the description of an experiment: which classes, with which arguments, run how.

A value comes from the first of these that has it:

1. a flag;
2. the file that ``--config`` names;
3. the algorithm's row for this data set, these ways and shots, then its row for all ways and shots;
4. the data set's protocol for these ways and shots, then its protocol for all;
5. the constructor.

Rows and protocols are the files in ``training/configs/<data class>/``. Flags are the constructors' arguments, and their
help is the classes' docstrings, so a new class needs no code here.
"""

import argparse
import difflib
import errno
import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, get_origin

import jsonargparse
import yaml
from torch import nn

import few_shot.data
import few_shot.lit_models
import few_shot.models
from few_shot.checkpoint import is_ours
from few_shot.errors import BadInput, TrainingDiverged, at_least
from few_shot.files import given_path, shortened
from few_shot.lit_models.base import LitMetaLearner
from few_shot.own_code import find
from training import slurm
from training.experiment import Experiment, RunOptions
from training.out_of_memory import OutOfMemory
from training.run_folder import find_resumed, is_launched, read_checkpoint, run_of_job
from training.settings import read_settings
from training.stopping import Stopped, received, stoppable
from training.terminal import say

CONFIGS = Path(__file__).parent / "configs"

#: Bases, which are no choice of their own.
ABSTRACT = {"CurveEpisodes", "EpisodeDataModule", "ImageEpisodes", "LitMetaLearner"}

#: What a run fills in itself: the sizes and the metric come from the data module, the seed from the run.
FILLED_IN = {
    "data_class": {"seed"},
    "model_class": {"input_shape", "output_size"},
    "lit_model_class": {"model", "metric"},
}

KINDS = {
    "data_class": ("data set", few_shot.data, few_shot.data.EpisodeDataModule),
    "model_class": ("model", few_shot.models, nn.Module),
    "lit_model_class": ("algorithm", few_shot.lit_models, LitMetaLearner),
}

#: What changes nothing once a model is trained: flags of the run, of the training episodes, of the outer loop, and the
#: model, which is the checkpoint's own, so that the model's flags have no use either.
TRAINING_ONLY = {"log_dir", "seed", "max_steps", "val_check_interval", "limit_train_batches", "limit_val_batches"}
TRAINING_ONLY |= {"log_every_n_steps", "stop_early", "compile", "fast_dev_run", "profile", "resume", "wandb"}
TRAINING_ONLY |= {"val_episodes", "augment"}
TRAINING_ONLY |= {"outer_lr", "outer_optimizer", "outer_schedule", "weight_decay", "gradient_clip_val"}
TRAINING_ONLY |= {"gradient_clip_algorithm", "track_grad_norm", "log_gradient_histograms", "tasks_at_once"}
TRAINING_ONLY |= {"first_order", "checkpoint_inner_loop", "first_order_updates", "multi_step_loss_updates", "cg_steps"}
TRAINING_ONLY |= {"inner_lr_min", "inner_lr_max", "inner_loop_steps", "max_skipped_updates"}
TRAINING_ONLY |= {"model_class"}

#: What a flag means that is given without a value; a switch then is on.
BARE = {"ensemble": "5", "stop_early": "5", "track_grad_norm": "2"}

WORDS = """\
Words:
  task, episode   a small learning problem: a few classes, or one sine wave
  support         the samples of a task that a model adapts to
  query           the samples of the same task that the adapted model is judged on
  ways            classes in an episode (--episode_classes)
  shots           support samples per class, or points per sine wave (--support_samples)
  inner loop      the gradient steps that adapt a copy of the model to a task's support set
  outer update    one step of the training: it changes the initial weights, from the query losses of batch_size tasks
  null            no value; give it as --flag=null
A switch, true or false, may be given alone: --first_order is --first_order=true.
"""

#: Every flag that this process has offered: in an error, ``name=`` becomes ``--name=``.
_offered: set[str] = set()


class _Parser(jsonargparse.ArgumentParser):
    """Says what is wrong in one sentence and exits with status 2."""

    flags: Collection[str] = ()
    unused: Set[str] = frozenset()  # those that are understood, as a checkpoint's, and not to be given

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(str(message).split())
        if unknown := re.match(r"unrecognized arguments: (\S+)", message, flags=re.IGNORECASE):
            if not unknown[1].startswith("-"):
                fail(self.prog, f"{unknown[1]} is no flag: put a path with spaces in quotes.")
            flag = unknown[1].split("=")[0]
            of_use = [f"--{name}" for name in sorted(self.flags) if name not in self.unused]
            meant = [name for name in of_use if name.endswith(f"_{flag.removeprefix('--')}")]
            if len(meant) != 1:
                meant = difflib.get_close_matches(flag, of_use, n=1, cutoff=0.75)
            where = " for the chosen classes" if KINDS.keys() & set(self.flags) else ""
            message = f"unknown flag {flag}{where}" + (f"; did you mean {meant[0]}?" if meant else ".")
        fail(self.prog, _plainly(message))

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The help with a glossary, and without types that say nothing: of text, and of choices that are listed."""
        text = super().format_help(formatter)
        text = re.sub(r"type:\s+(Literal\[[^]]*\]|str(\s+\|\s+null)?),\s+default:\s+", "default: ", text)
        text = re.sub(r"type:\s+bool,\s+default:\s+(\w+)", lambda found: f"default: {found[1].lower()}", text)
        text = re.sub(r"(--\w+) \[ITEM,\.\.\.\], --\w+\+ \[ITEM,\.\.\.\]", r"\1 ITEM ...", text)
        text = re.sub(r"\(required,\s+[^)]*\)", "(required)", text)
        width = shutil.get_terminal_size().columns - 2
        lines = [
            textwrap.fill(line, width, subsequent_indent=" " * 24) if len(line) > width else line
            for line in text.splitlines()
        ]
        return "\n".join([*lines, "", WORDS])


#: jsonargparse's names of types, in words.
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}


def _plainly(message: str) -> str:
    """What jsonargparse says of a bad value, as a sentence."""
    if missing := re.search(r"the following arguments are required: (.*)", message):
        return f"--{missing[1].replace(', ', ' and --')} must be given: --help says what for."
    if missing := re.search(r"argument (--\w+): expected one argument", message):
        return f"{missing[1]} is missing its value."
    of_one_type = r"Expected an? (?P<type>.*?)\. Got value: ?"
    of_several = r".*?Subtypes: \[(?P<types>.*?)\] .*Given value: ?"
    wrong = re.search(rf'Parser key "(\w+)": (?:{of_one_type}|{of_several})(?P<value>.*)$', message)
    if not wrong:
        return message
    names = re.sub(r"<class '(\w+)'>|\b(?:typing\.)?Literal\[(.*?)\]", r"\1\2", wrong["type"] or wrong["types"])
    choices = [TYPES.get(name.strip("'\" "), name.strip("'\" ")) for name in names.split(",")]
    return f"--{wrong[1]}={wrong['value']} cannot be used: it must be {' or '.join(choices)}."


def fail(program: str, message: str) -> NoReturn:
    """Print one sentence and exit with status 2."""
    say(f"{program}: error: {message}".replace("\n", "\\n"))  # a line break in the name of a file
    sys.exit(2)


#: What the system says when a disk, not a program, is at fault.
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}


@contextmanager
def clear_errors() -> Iterator[None]:
    """End with sentences, not with a traceback.

    The status is 2 for bad input or a file that cannot be written, 1 for a training that diverged, lost a process or
    has not enough memory, and 128 and a signal's number where that has stopped the program.
    """
    try:
        with stoppable():
            yield
    except BadInput as error:
        fail(_program(), _said(error, _with_dashes(str(error))))
    except (TrainingDiverged, OutOfMemory) as error:
        say(_said(error))
        sys.exit(1)
    except Stopped as stop:
        _end(stop)
    except Exception as error:
        if received():  # what was under way was cut off, or another process of the run has stopped first
            first = Stopped(received())
            for note in getattr(error, "__notes__", []):
                first.add_note(note)
            _end(first)
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            fail(_program(), _said(error, f"{error.filename or 'A file'} cannot be written ({error.strerror})."))
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            fail(
                _program(), "the memory does not suffice for what the flags ask for: is one of their numbers too large?"
            )
        if "DataLoader worker" not in str(error):
            raise
        say(_said(error, f"A process that draws data has ended ({str(error).splitlines()[0]})."))
        sys.exit(1)


def _said(error: BaseException, message: str = "") -> str:
    """A message, and what was added to an error on its way."""
    return " ".join([message or str(error), *getattr(error, "__notes__", [])])


def _end(stop: Stopped) -> NoReturn:
    say(_said(stop))
    # Lightning kills a run at once of which a process that it has launched ends in another way.
    sys.exit(0 if stop.agreed and is_launched() else stop.status)


def _program() -> str:
    return Path(sys.argv[0]).name


def _with_dashes(message: str) -> str:
    """The library names arguments, ``inner_lr=-1``; on the command line they are flags."""
    return re.sub(r"(?<![\w.,/=-])(\w+)=", lambda found: f"{'--' * (found[1] in _offered)}{found[0]}", message)


def parse(
    argv: Sequence[str] | None,
    description: str,
    extra: type | None = None,
    settings_from: str = "resume",
    unused: Set[str] = frozenset(),
) -> Experiment:
    """Resolve a command line; ``--help`` prints the flags of the chosen classes and exits.

    Args:
        argv: the command line without the program's name; None for this process's own.
        description: what the program does, for ``--help``.
        extra: a dataclass whose fields are further flags.
        settings_from: the flag that names a checkpoint; its run's settings come right below ``--config``.
        unused: flags that the program has no use for. They are not in its help, and refused.

    Raises:
        BadInput: a class, a config file or a value cannot be used.
        SystemExit: status 2 for a flag that does not exist or whose value has the wrong type.
    """
    argv, lists = _with_lists(sys.argv[1:] if argv is None else argv, extra)
    flags = _choices(argv, settings_from)
    checkpoint, config_file, log_dir = (flags.pop(flag, None) for flag in (settings_from, "config", "log_dir"))
    from_file = (
        {} if config_file is None else read_settings(given_path(config_file, "config"), f"--config={config_file}")
    )
    checkpoint = from_file.get(settings_from) if checkpoint is None else checkpoint
    log_dir = log_dir or from_file.get("log_dir") or RunOptions.log_dir
    from_checkpoint: dict[str, Any] = {}
    if checkpoint is not None and settings_from == "resume":
        checkpoint, from_checkpoint = find_resumed(checkpoint, log_dir)
    elif checkpoint is not None:
        from_checkpoint = read_checkpoint(checkpoint, settings_from)["config"]
    chosen = from_checkpoint | from_file | flags
    _refuse_strangers(f"{settings_from}={checkpoint}", from_checkpoint, named=from_file | flags)
    wants_help = bool({"-h", "--help"} & set(argv))
    if wants_help and "data_class" not in chosen:
        description += " Add --data_class=NAME, and see the flags of the data set and of its usual model too."
        _parser(description, extra, _named_classes(chosen), unused).parse_args(["--help"])
    if extra is not None and checkpoint is None:
        raise BadInput(f"--{settings_from} is missing: name a checkpoint.")

    classes, protocol = _choose_classes(chosen)
    if "model_class" in unused:
        unused = unused | set(_argument_names(classes["model_class"]))
    given = {token[2:].partition("=")[0] for token in argv if token.startswith("--")}
    for flag in sorted(unused & (given - {f for f in flags if flags[f] == from_checkpoint.get(f)})):
        raise BadInput(f"--{flag} has no use here: {_program()} takes it from the checkpoint, or does without.")
    parser = _parser(description, extra, classes)
    parser.unused = unused
    names = {flag: [n for n in _argument_names(cls) if n not in _left_out(flag, cls)] for flag, cls in classes.items()}
    if unknown := set(from_file) - (set(parser.flags) - {"config"}):
        raise BadInput(f"--config={config_file}: {min(unknown)} is no flag of the chosen classes.")

    usual = _usual(classes, protocol)
    defaults = {k: v for k, v in (usual | from_checkpoint | from_file).items() if k in parser.flags}
    if checkpoint is not None:
        defaults[settings_from] = str(checkpoint)
    # Parsed like flags, so that they are checked like flags; then --help shows them as the defaults that they are.
    parsed = parser.parse_args([f"--{k}={_as_flag(v)}" for k, v in defaults.items()]).as_dict()
    if wants_help:
        parser = _parser(description, extra, classes, unused)
        parsed = {k: v for k, v in parsed.items() if k in parser.flags}
    parser.set_defaults(parsed)
    values = _within_reach(parser.parse_args(_with_values(argv, parser)).as_dict()) | lists
    if settings_from == "resume":
        values["resume"] = defaults.get("resume")  # the checkpoint that was meant
    return Experiment(
        classes=classes,
        arguments={flag: {k: values[k] for k in names[flag]} for flag in classes},
        options=RunOptions(**{f.name: values[f.name] for f in fields(RunOptions)}),
        extra={} if extra is None else {f.name: values[f.name] for f in fields(extra)},
        config={
            k: list(v) if isinstance(v, tuple) else v
            for k, v in values.items()
            if k not in {*_argument_names(extra), "resume", "config"}
        },
        resumed_from=from_checkpoint,
    )


def parse_run(argv: Sequence[str] | None, description: str) -> Experiment:
    """What :func:`parse` does; a job of SLURM that was queued again goes on with the run that it had begun so."""
    argv = list(sys.argv[1:] if argv is None else argv)
    experiment = parse(argv, description)
    if slurm.has_started_before() and (begun := run_of_job(experiment.options.log_dir, experiment.config)):
        experiment = parse([*argv, f"--resume={begun}"], description)
    return experiment


def same_tasks(config: Mapping[str, Any], lit_model_class: str) -> list[str]:
    """The flags with which another algorithm trains the same network on the same tasks, for as many updates.

    Args:
        config: of an experiment.
        lit_model_class: the other algorithm's name.
    """
    named = {k: config[k] for k in ("data_class", "model_class", "loss")} | {"lit_model_class": lit_model_class}
    task = {k: config[k] for k in ("episode_classes", "support_samples") if k in config}
    classes, protocol = _choose_classes(named | task)
    parser = _parser("", None, classes)
    usual = parser.get_defaults().as_dict() | _usual(classes, protocol)
    flags = (*_argument_names(classes["data_class"]), *_argument_names(classes["model_class"]), "max_steps", "loss")
    own = {k: config[k] for k in flags if k in config and k in parser.flags}
    differing = {k: v for k, v in own.items() if _as_flag(v) != _as_flag(usual.get(k))}
    return [f"--{k}={_as_flag(v)}" for k, v in ({k: named[k] for k in KINDS} | task | differing).items()]


def parse_options(argv: Sequence[str] | None, description: str, options: type) -> Any:
    """The flags of a program that runs no experiment; ``--help`` prints them and exits.

    Args:
        argv: the command line without the program's name; None for this process's own.
        description: what the program does, for ``--help``.
        options: a dataclass whose fields are the flags. A list takes several values after one another.

    Raises:
        BadInput: a value is out of its range.
        SystemExit: status 2 for a flag that does not exist, is missing, or whose value has the wrong type.
    """
    parser = _Parser(prog=_program(), usage="%(prog)s --flag=value ...", description=description, allow_abbrev=False)
    parser.flags = set(_add_arguments(parser.add_argument_group("Flags"), options, set()))
    _offered.update(parser.flags)
    argv, lists = _with_lists(sys.argv[1:] if argv is None else argv, options)
    values = _within_reach(parser.parse_args(_with_values(argv, parser)).as_dict()) | lists
    return options(**{f.name: values[f.name] for f in fields(options)})


def _with_lists(argv: Sequence[str], options: type | None) -> tuple[list[str], dict[str, list[str]]]:
    """Turn ``--steps 0 1``, ``--steps=0 --steps=1`` and ``--steps=[0,1]`` into one value, as jsonargparse takes it.

    A list of texts is empty there, and returned beside: they would be read as YAML, which has no names of files with
    characters that are none.

    Args:
        options: a dataclass; its fields that are lists take several values.
    """
    of_text = {f"--{f.name}": f.type == list[str] for f in fields(options or _NoOptions) if get_origin(f.type) is list}
    found: list[str] = []
    values: dict[str, list[str]] = {}
    flag = ""
    for token in argv:
        is_flag = token.startswith("-") and not token[1:].isdigit()
        if is_flag:
            flag, _, value = token.partition("=")
        if flag not in of_text:
            found.append(token)
            continue
        values.setdefault(flag, [])
        if token != flag:
            values[flag].append(value if is_flag else token)
    for name, v in values.items():
        inside = [x[1:-1] if x.startswith("[") and x.endswith("]") else x for x in v]
        found.append(f"{name}=[{'' if of_text[name] else ', '.join(inside)}]")
    return found, {name[2:]: v for name, v in values.items() if of_text[name]}


@dataclass
class _NoOptions:
    """No flags of a program's own."""


def _parser(description: str, extra: type | None, classes: dict[str, type], unused: Set[str] = frozenset()) -> _Parser:
    """A parser of all flags but the unused ones, in groups: the program's own, each class's, and how to run.

    A flag that several classes have is shared by them.
    """
    parser = _Parser(
        prog=_program(),
        usage="%(prog)s --flag=value ...",
        description=description,
        allow_abbrev=False,
    )
    taken: set[str] = set(unused)
    if extra is not None:
        own = parser.add_argument_group("This program's own flags")
        taken |= set(_add_arguments(own, extra, taken))
    choices = parser.add_argument_group("What to run")
    text = "YAML file that sets any of these flags, one 'name: value' a line. A flag on the command line wins."
    choices.add_argument("--config", metavar="FILE", type=str | None, help=text)
    taken.add("config")
    for flag, (kind, package, base) in KINDS.items():
        if flag in taken:
            continue
        default = "LitMAML" if flag == "lit_model_class" else None
        text = f"the {kind}: {_names(package)}, or the path of {_a(base)} of yours, as my_package.my_file.MyClass."
        choices.add_argument(f"--{flag}", metavar="NAME", type=str | None, default=default, help=text)
        taken.add(flag)
    for flag, cls in classes.items():
        if set(_argument_names(cls)) <= taken | _left_out(flag, cls):
            continue  # a heading alone
        summary = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].replace("``", "").split())
        group = parser.add_argument_group(f"{KINDS[flag][0].capitalize()} {cls.__name__}", summary)
        taken |= set(_add_arguments(group, cls, taken | _left_out(flag, cls)))
    taken |= set(_add_arguments(parser.add_argument_group("How to run"), RunOptions, taken))
    parser.flags = taken - unused
    _offered.update(parser.flags)
    return parser


def _add_arguments(group: Any, cls: type, skip: Set[str]) -> list[str]:
    """Add a class's constructor arguments as flags; returns their names."""
    return group.add_class_arguments(
        cls, None, as_group=False, skip=set(skip) & set(_argument_names(cls)), fail_untyped=False
    )


def _left_out(flag: str, cls: type) -> set[str]:
    """Arguments that are no flags: those that the run fills in, and those that the class has no use for."""
    return FILLED_IN[flag] | set(getattr(cls, "unused", ()))


@cache  # a command line asks dozens of times
def _argument_names(cls: type | None) -> tuple[str, ...]:
    if cls is None:
        return ()
    return tuple(jsonargparse.ArgumentParser().add_class_arguments(cls, None, fail_untyped=False))


def _with_values(argv: Sequence[str], parser: _Parser) -> list[str]:
    """Let ``--wandb`` mean ``--wandb=true``, and ``--stop_early`` a usual patience."""
    switches = {name: "true" for name, value in parser.get_defaults().as_dict().items() if isinstance(value, bool)}
    bare = {f"--{name}": value for name, value in (switches | BARE).items() if name in parser.flags}
    found = []
    for i, token in enumerate(argv):
        alone = i + 1 == len(argv) or argv[i + 1].startswith("--")
        found.append(f"{token}={bare[token]}" if token in bare and alone else token)
    return found


def _usual(classes: Mapping[str, type], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol, with the data set's loss."""
    return {"loss": getattr(classes["data_class"], "loss", "cross_entropy"), **protocol}


def _named_classes(chosen: dict[str, Any]) -> dict[str, type]:
    """The classes that are named, for a help without a data set."""
    return {flag: _find(str(chosen[flag]), flag) for flag in KINDS if flag in chosen}


def _choose_classes(chosen: dict[str, Any]) -> tuple[dict[str, type], dict[str, Any]]:
    """The classes that the flags, or else the protocol, name; and what of the protocol holds for them."""
    if "data_class" not in chosen:
        raise BadInput(f"--data_class is missing: choose one of {_names(few_shot.data)}.")
    data_class = _find(chosen["data_class"], "data_class")
    protocol = _protocol(chosen) if data_class.__module__.startswith("few_shot.") else {}
    chosen = {"lit_model_class": "LitMAML"} | protocol | chosen
    if "model_class" not in chosen:
        raise BadInput(f"--model_class is missing: choose one of {_names(few_shot.models)}.")
    model_class = _find(chosen["model_class"], "model_class")
    lit_model_class = _find(chosen["lit_model_class"], "lit_model_class")
    own = getattr(few_shot.models, protocol.get("model_class", ""), None)
    if model_class is not own:  # another model's width says nothing of this one's
        others = set(_argument_names(own))
        protocol = {k: v for k, v in protocol.items() if k not in others}
    protocol |= {k: chosen[k] for k in KINDS}
    classes = {"data_class": data_class, "model_class": model_class, "lit_model_class": lit_model_class}
    for flag, cls in classes.items():
        if missing := FILLED_IN[flag] - set(_argument_names(cls)):
            raise BadInput(f"--{flag}={chosen[flag]} cannot be used: its constructor must take {min(missing)}.")
    return classes, protocol


def _choices(argv: Sequence[str], settings_from: str) -> dict[str, Any]:
    """The flags that decide which others there are."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS, exit_on_error=False
    )
    for flag in ("config", "log_dir", settings_from, *KINDS, "loss"):
        parser.add_argument(f"--{flag}")
    for flag in ("episode_classes", "support_samples"):
        parser.add_argument(f"--{flag}", type=lambda text: int(text) if re.fullmatch("[0-9]{1,9}", text) else text)
    try:
        return vars(parser.parse_known_args(list(argv))[0])
    except argparse.ArgumentError as error:
        raise BadInput(_plainly(str(error))) from None


def _refuse_strangers(name: str, settings: dict[str, Any], named: dict[str, Any]) -> None:
    """Refuse a checkpoint's classes and loss that are not of few_shot, unless the user names them too.

    Args:
        name: what to call the checkpoint.
        settings: what it says.
        named: what the user says.

    Raises:
        BadInput: there is one.
    """
    if missing := own_flags({flag: value for flag, value in settings.items() if flag not in named}):
        what = " and ".join(flag.removeprefix("--") for flag in missing)
        raise BadInput(
            f"{name} names {what}, which is not of few_shot, and a checkpoint's word is not enough to run it: if it is "
            f"yours, add {' '.join(missing)}."
        )


def own_flags(settings: Mapping[str, Any]) -> list[str]:
    """The flags that name what of some settings is the user's own: classes, and the loss."""
    own = {flag: settings.get(flag) for flag in (*KINDS, "loss")}
    return [f"--{flag}={value}" for flag, value in own.items() if value is not None and not is_ours(str(value))]


def _within_reach(values: dict[str, Any]) -> dict[str, Any]:
    """The same values, or BadInput for a whole number that nothing can have so many of."""
    for flag, value in values.items():
        if isinstance(value, int):
            at_least(min(value, 0), value, flag)
    return values


def _protocol(chosen: dict[str, Any]) -> dict[str, Any]:
    """The data set's protocol, overlaid with the algorithm's rows; each for all ways and shots, and for the chosen."""
    folder = CONFIGS / str(chosen["data_class"]).rpartition(".")[2]
    rows = {path.stem: path for path in folder.glob("*.yaml")}  # no name that a user gives becomes a path
    if "protocol" not in rows:
        return {}
    protocol = read_settings(rows["protocol"], str(rows["protocol"]))
    ways, shots = ({**protocol, **chosen}.get(k) for k in ("episode_classes", "support_samples"))
    algorithm = str(chosen.get("lit_model_class", "LitMAML")).rpartition(".")[2]
    task = f"{ways}way_{shots}shot"
    for name in (task, algorithm, f"{algorithm}_{task}"):
        protocol = protocol | (read_settings(rows[name], str(rows[name])) if name in rows else {})
    return protocol


def _choosable(package: Any) -> list[str]:
    return [name for name in package.__all__ if name not in ABSTRACT]


def _names(package: Any) -> str:
    return ", ".join(_choosable(package))


def _find(name: str, flag: str) -> type:
    """A class by its bare name in one of our packages or by its dotted path."""
    _, package, base = KINDS[flag]
    name = shortened(name)
    bare = name.rpartition(".")[2]
    try:
        found = find(name, package)
    except ImportError as error:
        raise BadInput(f"--{flag}={name} cannot be imported ({error}).") from error
    if not (isinstance(found, type) and issubclass(found, base)) or bare in ABSTRACT:
        close = _similar(bare, _choosable(package))
        raise BadInput(
            f"--{flag}={name} is unknown: "
            + (f"did you mean {close}? --help lists them all." if close else "")
            + (f"choose one of {_names(package)}, or the path of {_a(base)} of yours." if not close else "")
        )
    return found


def _a(base: type) -> str:
    if base is nn.Module:
        return "a torch.nn.Module"
    return f"{'an' if base.__name__[0] in 'AEIOU' else 'a'} {base.__name__}"


def _similar(name: str, names: list[str]) -> str | None:
    """The name that was probably meant: other capitals, a slip, or without its ``Lit``."""

    def plain(name: str) -> str:
        return re.sub(r"[\W_]", "", name.lower().replace("++", "plusplus")).removeprefix("lit")

    close = difflib.get_close_matches(plain(name), [plain(n) for n in names], n=1)
    return next((n for n in names if close and plain(n) == close[0]), None)


def _as_flag(value: Any) -> str:
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
