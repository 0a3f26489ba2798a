"""The learner of whatever was trained: a run's folder, a checkpoint, or a published result."""

from dataclasses import dataclass

from few_shot import load
from few_shot.checkpoint import PACKAGE, describe_data, find_checkpoint, read_any
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


def load_trained(path: str) -> Learner:
    """The learner, as it was trained.

    A checkpoint says by itself how to build its learner. Where it does not, because it is older or has a
    model of the user's own, the run's settings say it.

    Args:
        path: a run's folder, whose best checkpoint is taken; a checkpoint; or a folder of ``benchmarks/results``.

    Raises:
        BadInput: it is none of these.
    """
    file = find_checkpoint(path)
    content = read_any(file)
    facts = content.get("few_shot", {})
    of_this_package = str((facts.get("model") or {}).get("class", "")).startswith(PACKAGE)
    if of_this_package or "config" not in content:
        return load(file)
    experiment = parse([f"--checkpoint={file}"], "", _Settings, settings_from="checkpoint")
    # The weights come from the file: nothing is to be downloaded for them.
    experiment.arguments["model_class"] |= getattr(experiment.classes["model_class"], "when_loaded", {})
    data, lit_model = experiment.modules()
    load_weights(lit_model, str(file), "checkpoint")
    lit_model.on_load_checkpoint({"few_shot": {"data": facts.get("data") or describe_data(data)}})
    return learner_of(lit_model.eval())
