"""Out of Python: a learner's adaptation as files that any ONNX runtime reads, checked before they are written."""

import copy
import json
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import save

from few_shot.checkpoint import WEIGHTS, save_learner
from few_shot.errors import BadInput
from few_shot.files import given_path
from few_shot.lit_models.base import LitMetaLearner
from few_shot.onnx.check import DRAWS, TOLERANCE, Episode, Judge, check_network, draw
from few_shot.samples import Inputs, input_shape_of
from few_shot.whole_files import write_together

#: The version of ``export.json``.
FORMAT = 1
ADAPT, MODEL, EXAMPLE, FACTS = "adapt.onnx", "model.onnx", "example.safetensors", "export.json"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass
class Exported:
    """What was written.

    Attributes:
        folder: where.
        sizes: each file's bytes.
        difference: the largest one between the graph's and PyTorch's predictions.
        milliseconds: of one adaptation to the example in onnxruntime, with one thread.
    """

    folder: Path
    sizes: dict[str, int]
    difference: float
    milliseconds: float


def export(lit_model: LitMetaLearner, folder: str | Path, steps: int | None = None) -> Exported:
    """Write a learner's adaptation as ONNX, with what a program in another language must know to use it.

    ======================= ==========================================================================================
    ``adapt.onnx``          the whole adaptation: (support_x, support_y, query_x, inner_lr) to the predictions after
                            each inner step; see :func:`few_shot.onnx.graphs.adaptation_graph`
    ``model.onnx``          the network: (its weights, by their names, and x) to its outputs
    ``weights.safetensors`` the weights; :func:`few_shot.load` takes the folder
    ``example.safetensors`` an episode, and PyTorch's predictions for it
    ``export.json``         the task, sizes, preprocessing, rates, versions, what was checked
    ======================= ==========================================================================================

    A model with a head tells as many classes apart as it has outputs. ProtoNet's graph tells 20 apart at most; where
    there are more, its probabilities are not a number.

    The graphs run in onnxruntime first. Unless they compute what PyTorch does, nothing is written.

    Args:
        lit_model: the learner; it stays as it is.
        folder: where to write. The files of an export that is there are replaced; others stay.
        steps: inner steps in the graph, K; None for test_inner_loop_steps.

    Raises:
        BadInput: a package is missing; the learner, or a layer of its model, cannot be exported; the predictions
            differ; or the folder cannot be written.
    """
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise BadInput(f"Export needs {' and '.join(missing)}, not installed: pip install {' '.join(missing)}.")
    from few_shot.onnx.graphs import Adaptation, adaptation_graph, network_graph  # seconds to import

    folder = given_path(folder, "folder")
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not _is_export(folder):
        raise BadInput(f"{folder} is there already, and is no export that could be replaced: give another name.")
    learner = copy.deepcopy(lit_model).cpu().float().eval()
    steps = learner.steps_or_own(steps)
    shape, of_classes = _input_shape(learner), _is_of_classes(learner)
    adaptation = Adaptation(learner, shape, steps, of_classes)
    graph, network = adaptation_graph(adaptation), network_graph(learner, shape)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            new = Path(temporary)
            graph.save(new / ADAPT, external_data=False)
            network.save(new / MODEL, external_data=False)
            save_learner(learner, new / WEIGHTS)
            episodes = _episodes(shape, adaptation.outputs, of_classes)
            check_network(learner, new / MODEL, episodes[0][0].query_x)
            judge = Judge(learner, steps, new / ADAPT, adaptation.rate)
            checked = [judge.check(draws) for draws in episodes]
            (new / EXAMPLE).write_bytes(save(checked[0].tensors))
            facts = {
                "format_version": FORMAT,
                "task": "classification" if of_classes else "regression",
                "input_shape": list(shape),
                "outputs": adaptation.outputs,
                "steps": steps,
                "inputs": adaptation.inputs,
                "inner_lr": adaptation.rate_record,
                **_origin(learner, shape),
                "opset": graph.model.opset_imports[""],
                "versions": {package: version(package) for package in ("torch", *PACKAGES)},
                "checked": [c.record for c in checked],
                "example": {"file": EXAMPLE, "tolerance": TOLERANCE, **checked[0].record},
            }
            (new / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
            files = {file.name: file.read_bytes() for file in sorted(new.iterdir())}
        folder.mkdir(exist_ok=True)
        write_together({folder / name: content for name, content in files.items()})
    except OSError as error:
        raise BadInput(f"{error.filename or folder} cannot be written ({error.strerror}).") from error
    sizes = {name: len(content) for name, content in files.items()}
    return Exported(folder, sizes, max(c.difference for c in checked), checked[0].milliseconds)


def _is_export(folder: Path) -> bool:
    """Whether a folder holds what :func:`export` has written."""
    try:
        facts = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and {"format_version", "lit_model_class"} <= facts.keys()


def _input_shape(learner: LitMetaLearner) -> tuple[int, ...]:
    shape = (learner.data_facts or {}).get("input_shape") or input_shape_of(learner.model)
    if shape is None:
        raise BadInput(
            "Nothing says what shape the model's inputs have: fit the learner on a data module with an input_shape, or "
            "use a model of few_shot.models."
        )
    return tuple(shape)


def _is_of_classes(learner: LitMetaLearner) -> bool:
    if learner.is_of_classes is None:
        raise BadInput("Nothing says whether the tasks have classes: fit the learner first, or give it a metric.")
    return learner.is_of_classes


def _origin(learner: LitMetaLearner, shape: tuple[int, ...]) -> dict[str, Any]:
    """What the graphs were made of, and how pictures become their inputs."""
    facts = learner.data_facts or {}
    return {
        "data_class": facts["class"].rpartition(".")[2] if facts else None,
        "lit_model_class": type(learner).__name__,
        "model_class": type(learner.model).__name__,
        "preprocessing": Inputs(shape, facts.get("preprocessing")).how,
    }


def _episodes(shape: tuple[int, ...], outputs: int, of_classes: bool) -> list[list[Episode]]:
    """Episodes of two sizes to check; of classes the second has fewer, and not as many samples of each."""
    shots: list[Any] = [10, 3]
    if of_classes:
        ways = min(outputs, 5)
        shots = [[1] * ways, [1 + i % 2 for i in range(max(2, ways - 2))]]
    sizes = zip(shots, (10, 3), strict=True)
    return [[draw(seed, shape, s, outputs, queries) for seed in range(DRAWS)] for s, queries in sizes]
