"""The learner of whatever was trained: a run's folder, a checkpoint, or a published result."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from few_shot import load
from few_shot.checkpoint import describe_data, find_checkpoint, is_ours, read_any
from few_shot.learner import Learner, learner_of
from training.command_line import own_flags, parse
from training.experiment import load_weights


@dataclass(kw_only=True)
class OwnCode:
    """What of a run is the user's own: a checkpoint names it, and does not bring it along.

    Args:
        data_class: the run's data set, where it is a class of yours, as my_package.my_file.MyClass.
        model_class: the run's model, where it is a class of yours.
        lit_model_class: the run's algorithm, where it is a class of yours.
        loss: the run's loss, where it is a function of yours.
    """

    data_class: str | None = None
    model_class: str | None = None
    lit_model_class: str | None = None
    loss: str | None = None

    @staticmethod
    def of(config: Mapping[str, Any]) -> "OwnCode":
        """What of a run's settings it is."""
        return OwnCode(**dict(flag.removeprefix("--").split("=", 1) for flag in own_flags(config)))

    def flags(self) -> list[str]:
        """The flags that name it."""
        named = {field.name: getattr(self, field.name) for field in fields(OwnCode)}
        return [f"--{name}={value}" for name, value in named.items() if value is not None]


@dataclass
class _Settings:
    """Whose settings to take.

    Args:
        checkpoint: a checkpoint file, or a published result's folder.
    """

    checkpoint: str


def load_trained(path: str, own: OwnCode | None = None) -> Learner:
    """The learner, as it was trained.

    A checkpoint says by itself how to build its learner. Where it does not, because it is older or has a
    model of the user's own, the run's settings say it.

    Args:
        path: a run's folder, whose best checkpoint is taken; a checkpoint; or a folder of ``benchmarks/results``.
        own: the run's classes and loss that are the user's own. No others of a checkpoint's are imported.

    Raises:
        BadInput: it is none of these.
    """
    file = find_checkpoint(path)
    content = read_any(file)
    facts = content.get("few_shot")
    if "config" not in content or (facts and all(map(is_ours, _names(facts)))):
        return load(file)
    flags = [f"--checkpoint={file}", *(own.flags() if own else [])]
    experiment = parse(flags, "", _Settings, settings_from="checkpoint")
    # The weights come from the file: nothing is to be downloaded for them.
    experiment.arguments["model_class"] |= getattr(experiment.classes["model_class"], "when_loaded", {})
    data, lit_model = experiment.modules()
    load_weights(lit_model, str(file), "checkpoint")
    lit_model.on_load_checkpoint({"few_shot": {"data": (facts or {}).get("data") or describe_data(data)}})
    return learner_of(lit_model.eval())


def _names(facts: Mapping[str, Any]) -> list[str]:
    """What a checkpoint's learner is made of; a model that did not remember its arguments has a name of nobody's."""
    learner, model = facts["learner"], facts["model"] or {"class": "?.?"}
    return [learner["class"], model["class"], str(learner["arguments"].get("loss") or "")]
