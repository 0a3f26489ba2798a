"""What a checkpoint holds beyond Lightning's own, and its reader, which runs nothing in it as code.

``checkpoint["few_shot"]`` says how to build what the weights belong to, in plain values:

    {"learner": {"class": "few_shot.lit_models.lit_maml.LitMAML", "arguments": {"inner_lr": 0.01, …}},
     "model":   {"class": "few_shot.models.conv4.Conv4", "arguments": {"width": 32, …}, "frozen": ["body.0.weight", …]},
     "data":    {"class": "few_shot.data.omniglot.Omniglot", "input_shape": (1, 28, 28), …}}

``model`` is None where the model's constructor did not remember its arguments, ``data`` where no data module was used.
Only classes of this package are built. Any other the caller must give.
"""

import contextlib
import importlib
import io
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from few_shot.arguments import RemembersArguments, weights_follow
from few_shot.errors import BadInput
from few_shot.files import given_path, open_file
from few_shot.weight_files import are_weights, read_torch, reason
from few_shot.whole_files import CannotWrite, write_whole

PACKAGE = "few_shot."
#: The file of a published result's weights.
WEIGHTS = "weights.safetensors"


def describe(learner: Any) -> dict[str, Any]:
    """The content of ``checkpoint["few_shot"]``, in plain values."""
    arguments = {k: v for k, v in learner.constructor_arguments.items() if k != "model"}
    for name, now in (("loss", learner.objective.loss_name), ("metric", learner.objective.metric_name)):
        decided_by_the_class = learner.given[name] is not None and name not in arguments
        if not decided_by_the_class:
            arguments[name] = now  # the data module's, where the constructor was given none
    model = learner.model
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    ours = isinstance(model, RemembersArguments)
    return {
        "learner": _record(learner, arguments),
        "model": _record(model, model.constructor_arguments) | {"frozen": frozen} if ours else None,
        "data": learner.data_facts,
    }


def _record(instance: object, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"class": _dotted(type(instance)), "arguments": _plain_values(arguments)}


def describe_data(data: Any) -> dict[str, Any]:
    """What a checkpoint says of a data module, after its ``setup``, in plain values."""
    facts = {name: getattr(data, name, None) for name in ("input_shape", "loss", "metric", "preprocessing")}
    facts |= data.record() if hasattr(data, "record") else {}
    return {"class": _dotted(type(data))} | _plain_values(facts)


def _dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that PyTorch's safe reader takes, as it takes them."""
    found = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError):
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """A value of Python's own types: a number of numpy, a tensor of one number and a shape become such.

    Raises:
        TypeError: it is of another kind.
    """
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.dim() == 0):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value] if isinstance(value, list) else tuple(_plain(v) for v in value)
    if type(value) is dict:
        return {_plain(k): _plain(v) for k, v in value.items()}
    raise TypeError(f"{value!r} is not plain")


def is_ours(name: str) -> bool:
    """Whether a class or function that a file names is of this package, or of torch.nn.functional.

    Others are not imported on a file's word. To import a module is to run it.
    """
    module = name.rpartition(".")[0]
    return module in ("", "torch.nn.functional") or f"{module}.".startswith(PACKAGE)


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint that says how to build its learner.

    Raises:
        BadInput: the file is not there, or is no checkpoint of this package.
    """
    content = read_any(path)
    if "few_shot" not in content:
        raise BadInput(f"{path} is no checkpoint that says how to build its model: it is older, or of another program.")
    return content


def read_any(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content, whoever wrote it. What it says of its learner is whole, if it says anything.

    Raises:
        BadInput: the file is not there, or is no checkpoint.
    """
    try:
        content = _read_weights(path) if Path(path).suffix == ".safetensors" else read_torch(path)
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist.") from None
    except Exception as error:
        raise BadInput(f"{path} is no checkpoint ({reason(error)}).") from error
    if not isinstance(content, dict) or not are_weights(content.get("state_dict")):
        raise BadInput(f"{path} is no checkpoint: it holds no weights by their names.")
    if "few_shot" in content:
        content["few_shot"] = _facts(content["few_shot"])
        if content["few_shot"] is None:
            raise BadInput(f"{path} is damaged: it does not say how to build its learner.")
    return content


def _read_weights(path: str | Path) -> dict[str, Any]:
    open_file(path).close()  # refuses what is no file
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = (file.metadata() or {}).get("few_shot")
    return {"state_dict": weights} | ({} if facts is None else {"few_shot": json.loads(facts)})


def _facts(found: Any) -> dict[str, Any] | None:
    """What a file says, if it says how to build a learner, as :func:`describe` does; None if not."""
    try:
        facts = _plain(found)
    except TypeError:
        return None
    if not isinstance(facts, dict) or not {"learner", "model", "data"} <= facts.keys():
        return None
    model = facts["model"]
    whole = _is_record(facts["learner"]) and (model is None or _is_record(model)) and _is_of_data(facts["data"])
    return facts if whole else None


def _is_record(record: Any) -> bool:
    of_class = isinstance(record, dict) and isinstance(record.get("class"), str)
    arguments, frozen = (record.get("arguments"), record.get("frozen", [])) if of_class else (None, None)
    if not (isinstance(arguments, dict) and isinstance(frozen, list)):
        return False
    return all(isinstance(name, str) for name in [*arguments, *frozen])


def _is_of_data(data: Any) -> bool:
    if not isinstance(data, dict):
        return data is None
    classes, shape = data.get("classes", {}), data.get("input_shape", ())
    if not isinstance(classes, dict) or not isinstance(shape, list | tuple):
        return False
    return all(isinstance(names, list | tuple) and all(isinstance(n, str) for n in names) for names in classes.values())


def save_learner(learner: Any, path: str | Path) -> None:
    """Write a learner's weights, and all that is needed to build it again: as safetensors if the name ends so.

    Raises:
        BadInput: the file cannot be written.
    """
    path = given_path(path, "path")
    weights, facts = learner.state_dict(), describe(learner)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(path, error) from error
    if path.suffix == ".safetensors":
        # each a copy, for the format knows no weight under two names
        weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
        write_whole(path, save(weights, metadata={"few_shot": json.dumps(facts)}))
    else:  # with what a Trainer wants to see in a checkpoint that it tests
        of_a_trainer = {"pytorch-lightning_version": version("pytorch-lightning"), "epoch": 0, "global_step": 0}
        write_whole(path, as_bytes({"state_dict": weights, "few_shot": facts, **of_a_trainer}))


def as_bytes(content: Any) -> bytes:
    """What ``torch.save`` writes, without the file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path names: itself, or that of a published result's or a run's folder.

    Of a run it is the best one by validation; the last where none is best, or where it was resumed without validation.

    Raises:
        BadInput: the folder holds none.
    """
    path = given_path(path, "checkpoint")
    if not path.is_dir():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if not (found := sorted(folder.glob("best-*.ckpt")) + sorted(folder.glob("last.ckpt"))):
        others = sorted(path.rglob("*.ckpt"))
        hint = f": give the file, such as {others[0]}" if others else ""
        raise BadInput(f"{path} is no run's folder with checkpoints (best-*.ckpt, last.ckpt){hint}.")
    if len(found) == 1 or found[-1].name != "last.ckpt":
        return found[0]
    last = read_any(found[-1])  # it says which is the best
    if isinstance(config := last.get("config"), dict) and config.get("limit_val_batches") == 0:
        return found[-1]
    states = callback_states(last)
    best = {Path(str(state.get("best_model_path") or "")).name for state in states if state.get("monitor")}
    return next((file for file in found if file.name in best), found[0])


def load_learner(path: str | Path, cls: type, model: nn.Module | None, changes: Mapping[str, Any]) -> Any:
    """Build a checkpoint's learner, with the arguments it was trained with, and load its weights.

    Args:
        path: the checkpoint.
        cls: what the learner must be: its class, or one of its base classes.
        model: the model to load the weights into; None for the one that the checkpoint names.
        changes: arguments that are to differ from those in the checkpoint.

    Raises:
        BadInput: the file is no checkpoint of this package, holds another class, or does not fit the model.
    """
    content = read(path)
    facts, weights = content["few_shot"], content["state_dict"]
    name, arguments = facts["learner"]["class"], facts["learner"]["arguments"] | dict(changes)
    given, model = model, _build_model(path, facts["model"], weights) if model is None else model
    kind: Any = cls if name == _dotted(cls) else _own_class(path, name)
    if not issubclass(kind, cls):
        raise BadInput(f"{path} holds a {kind.__name__}, which is no {cls.__name__}.")
    if "loss" not in changes and not is_ours(str(arguments.get("loss") or "")):
        raise BadInput(
            f"{path} was trained with loss={arguments['loss']}, which is not imported from a checkpoint's word: "
            f"give loss='{arguments['loss']}' too."
        )
    learner = _built(path, kind, {"model": model, **arguments})
    try:
        learner.to(next((w.dtype for w in weights.values() if w.is_floating_point()), torch.float32))
        learner.load_state_dict(weights)
    except RuntimeError as error:
        difference = " ".join(str(error).split()[:60])
        one = "it names" if given is None else "given"
        raise BadInput(f"{path} holds the weights of another model than the one {one}: {difference} …") from error
    learner.on_load_checkpoint(content)
    return learner.eval()


def callback_states(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a checkpoint of a Trainer holds of its callbacks; nothing where it is of no Trainer."""
    states = content.get("callbacks")
    return [state for state in states.values() if isinstance(state, dict)] if isinstance(states, dict) else []


def _build_model(path: str | Path, record: Mapping[str, Any] | None, weights: Mapping[str, Any]) -> nn.Module:
    if record is None or not record["class"].startswith(PACKAGE):
        what = "a model of your own" if record is None else f"a {record['class']}"
        raise BadInput(f"{path} holds the weights of {what}: give model= to load them into.")
    kind = _own_class(path, record["class"])
    if not issubclass(kind, nn.Module):
        raise BadInput(f"{path} names {record['class']} as its model, and that is none.")
    with weights_follow():
        with torch.device("meta"):  # which takes no memory
            needed = sum(w.numel() for w in _built(path, kind, record["arguments"]).state_dict().values())
        held = sum(w.numel() for w in weights.values() if isinstance(w, Tensor))
        if needed > 2 * held:  # weights that several names share are there once
            raise BadInput(f"{path} holds {held} numbers, and the {kind.__name__} that it names has {needed}.")
        model = _built(path, kind, record["arguments"])
    if "frozen" in record:
        for name, p in model.named_parameters():
            p.requires_grad_(name not in record["frozen"])
    return model


def _built(path: str | Path, kind: Any, arguments: Mapping[str, Any]) -> Any:
    """What a checkpoint describes.

    Raises:
        BadInput: the arguments are none of the class's; a constructor may raise anything at them.
    """
    try:
        return kind(**arguments)
    except Exception as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise BadInput(f"{path} does not fit {kind.__name__}'s constructor: {words.rstrip('.')}.") from error


def _own_class(path: str | Path, name: str) -> type:
    """A class of this package by its dotted name."""
    module, _, bare = name.rpartition(".")
    if not module.startswith(PACKAGE):
        raise BadInput(f"{path} holds a {name}, which is not of this package: call {bare}.load_from_checkpoint.")
    try:
        found = getattr(importlib.import_module(module), bare, None)
    except ImportError:
        found = None
    if not isinstance(found, type) or found.__module__ != module:
        raise BadInput(f"{path} holds a {name}, which this version does not have.")
    return found
