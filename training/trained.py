"""The learner of whatever was trained: a run's folder, a checkpoint, or a published result."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from few_shot import load
from few_shot.checkpoint import describe_data, find_checkpoint, is_ours, read_any
from few_shot.learner import Learner, learner_of
from training.command_line import parse
from training.experiment import load_weights


@dataclass
class _Settings:
    """Whose settings to take.

    Args:
        checkpoint: a checkpoint file, or a published result's folder.
    """

    checkpoint: str


def load_trained(path: str, own: Mapping[str, str] = MappingProxyType({})) -> Learner:
    """The learner, as it was trained.

    A checkpoint says by itself how to build its learner. Where it does not, because it is older or has a
    model of the user's own, the run's settings say it.

    Args:
        path: a run's folder, whose best checkpoint is taken; a checkpoint; or a folder of ``benchmarks/results``.
        own: the run's classes and loss that are the user's own, by flag. No others of a checkpoint's are imported.

    Raises:
        BadInput: it is none of these.
    """
    file = find_checkpoint(path)
    content = read_any(file)
    facts = content.get("few_shot")
    if "config" not in content or (facts and all(map(is_ours, _names(facts)))):
        return load(file)
    flags = [f"--{flag}={value}" for flag, value in own.items()]
    experiment = parse([f"--checkpoint={file}", *flags], "", _Settings, settings_from="checkpoint")
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
