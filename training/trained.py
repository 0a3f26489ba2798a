"""The learner of whatever was trained: a run's folder, a checkpoint, or a published result."""

from dataclasses import dataclass
from pathlib import Path

from few_shot import checkpoint, load
from few_shot.learner import Learner, learner_of
from training.command_line import parse
from training.experiment import load_weights
from training.weights import WEIGHTS


@dataclass
class _Settings:
    """Whose settings to take.

    Args:
        checkpoint: a checkpoint file, or a published result's folder.
    """

    checkpoint: str


def load_trained(path: str) -> Learner:
    """The learner, as it was trained.

    A checkpoint says by itself how to build its learner. Where it does not, because it is older, a published result, or
    has a model of the user's own, the run's settings say it.

    Args:
        path: a run's folder, whose best checkpoint is taken; a checkpoint; or a folder of ``benchmarks/results``.

    Raises:
        BadInput: it is none of these.
    """
    folder = Path(path).expanduser()
    file = folder if (folder / WEIGHTS).is_file() else checkpoint.find(folder)
    facts, has_settings = {}, (folder / WEIGHTS).is_file()
    if not has_settings:
        content = checkpoint.read_any(file)
        facts, has_settings = content.get("few_shot", {}), "config" in content
    of_this_package = str((facts.get("model") or {}).get("class", "")).startswith(checkpoint.PACKAGE)
    if of_this_package or not has_settings:
        return load(file)
    experiment = parse([f"--checkpoint={file}"], "", _Settings, settings_from="checkpoint")
    # The weights come from the file: nothing is to be downloaded for them.
    experiment.arguments["model_class"] |= getattr(experiment.classes["model_class"], "when_loaded", {})
    data, lit_model = experiment.modules()
    load_weights(lit_model, str(file), "checkpoint")
    lit_model.on_load_checkpoint({"few_shot": {"data": facts.get("data") or checkpoint.describe_data(data)}})
    return learner_of(lit_model.eval())
