"""A learner's adaptation, inner gradients included, and its network, as ONNX graphs.

``torch.export`` cannot look into ``torch.autograd.grad``. ``make_fx`` can: it records the operations of the forward and
the backward passes alike, as one function that has no gradient left to take. That function is exported.
"""

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.parametrize import is_parametrized

from few_shot.adaptation import head_name, run_one_by_one
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.inner_optimizers import Rates, Weights
from few_shot.lit_models import LitMAML, LitProtoNet
from few_shot.lit_models.base import LitMetaLearner
from few_shot.lit_models.without_head import LitWithoutHead
from few_shot.onnx.derivatives import DECOMPOSITIONS
from few_shot.private_parts import with_free_size

#: Outputs of ProtoNet's graph, whose learner takes any number of classes.
MOST_CLASSES = 20
#: The logit of an output that takes no part: its probability, and cross entropy's gradients through it, are exactly 0.
OFF = -1e9
#: How many samples tracing sees. Any do from 2 on; 1 would stay 1.
SUPPORT, QUERY = 6, 7


class Adaptation(nn.Module):
    """Adaptation to one task, and the predictions on its way, as one function of tensors.

    Args:
        lit_model: the learner, on the CPU. It stays as it is.
        input_shape: of one sample.
        steps: inner steps, K.
        of_classes: whether the tasks have classes.

    Attributes:
        inputs: the inputs' names.
        outputs: how many numbers, or classes, are predicted for a sample.
        rate: of inner_lr, what the learner itself has; None where that is no input.
        learns_rates: whether inner_lr is a factor on rates that were learned, instead of the rate.

    Raises:
        BadInput: the learner's adaptation cannot be a graph.
    """

    def __init__(self, lit_model: LitMetaLearner, input_shape: Sequence[int], steps: int, of_classes: bool) -> None:
        super().__init__()
        self.input_shape, self.steps, self.of_classes = tuple(input_shape), steps, of_classes
        learner = self.learner = copy.deepcopy(lit_model).eval()
        learner.transductive = False
        run_one_by_one(learner.model)  # vmap would fix the number of samples in a convolution
        learner.fast_path = False  # whose own functions have no ONNX form
        self.inputs = ["support_x", "support_y", "query_x"]
        self.rate: float | None = None
        self.learns_rates = False
        if isinstance(learner, LitProtoNet):
            self.outputs = MOST_CLASSES
            return
        if isinstance(learner, LitWithoutHead) or not isinstance(learner, LitMAML):
            raise BadInput(
                f"{type(learner).__name__} cannot be exported: of few_shot's algorithms, ProtoNet can, and those with "
                "an inner loop that starts from the same weights for all tasks."
            )
        if of_classes and not _has_a_linear_head(learner.model):
            raise BadInput(
                f"{type(learner.model).__name__} cannot be exported: it has no linear head, whose outputs could be "
                "turned off for a task of fewer classes."
            )
        self.outputs = learner.model(torch.zeros(2, *input_shape)).shape[1]
        self.inputs.append("inner_lr")
        self.learns_rates = any(isinstance(rate, Tensor) for rate in learner.inner_rates(0).values())
        self.rate = 1.0 if self.learns_rates else learner.inner_lr

    @property
    def rate_record(self) -> dict[str, Any] | None:
        """What ``export.json`` says of inner_lr."""
        if self.rate is None:
            return None
        return {"default": self.rate, "meaning": "factor" if self.learns_rates else "rate"}

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, *inner_lr: Tensor) -> Tensor:
        """Predictions ``[K+1, Q, outputs]`` after each inner step, from 0; of classes their probabilities."""
        learner: Any = self.learner
        episode = EpisodeBatch(*(x[None] for x in (support_x, support_y, query_x, support_y, support_y)))
        with torch.no_grad():
            if isinstance(learner, LitProtoNet):
                outputs = learner.logits(episode, transductive=False, classes=MOST_CLASSES)
                outputs = torch.where(_in_use(MOST_CLASSES, support_y), outputs, OFF)
                outputs = torch.where(support_y.max() < MOST_CLASSES, outputs, torch.nan)
            else:
                own = type(learner).inner_rates

                def rates(step: int) -> Rates:
                    factors = own(learner, step)
                    return {name: inner_lr[0] * (r if self.learns_rates else 1) for name, r in factors.items()}

                learner.inner_rates = rates
                outputs = torch.cat(learner.step_predictions(episode, list(range(self.steps + 1))))
        return outputs.softmax(-1) if self.of_classes else outputs

    def by(self, weights: Weights, support_x: Tensor, support_y: Tensor, *others: Tensor) -> Tensor:
        """The same by given weights, named as the learner's; classes that the support set does not have are off."""
        if self.of_classes and isinstance(self.learner, LitMAML):
            bias = ".".join(filter(None, ["model", head_name(self.learner.model), "bias"]))
            used = _in_use(len(weights[bias]), support_y)
            weights = weights | {bias: torch.where(used, weights[bias], OFF)}
        weights = {f"learner.{name}": w for name, w in weights.items()}
        return functional_call(self, weights, (support_x, support_y, *others))


def _has_a_linear_head(model: nn.Module) -> bool:
    """Whether the head is a linear layer with a weight and a bias of its own."""
    head = model.get_submodule(head_name(model))
    return isinstance(head, nn.Linear) and not is_parametrized(head) and head.bias is not None


def _in_use(outputs: int, support_y: Tensor) -> Tensor:
    """Which outputs are of classes that the support set has, ``[outputs]``."""
    return torch.arange(outputs) <= support_y.max()


def adaptation_graph(adaptation: Adaptation) -> Any:
    """The ONNX program of a learner's adaptation; the weights are inside.

    Its inputs are support_x ``[support, *input_shape]``, support_y ``[support]`` for classes or ``[support, outputs]``,
    query_x ``[query, *input_shape]`` and, but of ProtoNet, inner_lr ``[]``. The sizes support and query are free. Its
    output is predictions ``[K+1, query, outputs]``.

    Raises:
        BadInput: a layer cannot be exported.
    """
    shape = adaptation.input_shape
    of_classes = adaptation.of_classes
    support_y = torch.zeros(SUPPORT, dtype=torch.int64) if of_classes else torch.zeros(SUPPORT, adaptation.outputs)
    inputs = [torch.zeros(SUPPORT, *shape), support_y, torch.zeros(QUERY, *shape)]
    inputs += [] if adaptation.rate is None else [torch.tensor(adaptation.rate)]
    sizes: list[dict[int, str]] = [{0: "support"}, {0: "support"}, {0: "query"}, {}][: len(inputs)]
    learner = adaptation.learner
    with _one_sentence(learner.model):
        weights = _weights(learner)
        free = [False] * len(weights) + [bool(size) for size in sizes]
        with with_free_size([*weights.values(), *inputs], free) as empty:
            of_weights = dict(zip(weights, empty, strict=False))
            graph = make_fx(adaptation.by, DECOMPOSITIONS)(of_weights, *empty[len(weights) :])
        return _to_onnx(_Traced(learner, graph), tuple(inputs), (tuple(sizes),), adaptation.inputs, "predictions")


def network_graph(learner: LitMetaLearner, input_shape: Sequence[int]) -> Any:
    """The ONNX program of a learner's network as a function of its weights and of x ``[n, *input_shape]``.

    Each weight is an input, by its name in the learner's state dict. Batch norm takes the statistics of x.

    Raises:
        BadInput: a layer cannot be exported.
    """
    weights = {name: w for name, w in learner.state_dict().items() if name.startswith("model.")}
    with _one_sentence(learner.model):
        inputs = (weights, torch.zeros(SUPPORT, *input_shape))
        sizes: Any = ({name: {} for name in weights}, {0: "n"})
        return _to_onnx(_Network(learner), inputs, sizes, [*weights, "x"], "outputs")


class _Traced(nn.Module):
    """A traced adaptation with the learner that its weights come from."""

    def __init__(self, learner: nn.Module, graph: nn.Module) -> None:
        super().__init__()
        self.learner, self.graph = learner, graph

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.graph(_weights(self.learner), *inputs)


class _Network(nn.Module):
    """A learner's network as a function of its weights."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.network = [learner]  # in a list, so that its weights are not taken for the graph's own

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        return functional_call(self.network[0], weights, (x,))


def _weights(learner: nn.Module) -> Weights:
    return dict(learner.named_parameters()) | dict(learner.named_buffers())


def _to_onnx(module: nn.Module, inputs: tuple, sizes: tuple, names: list[str], output: str) -> Any:
    """Export a module that takes no gradient.

    Args:
        module: the module.
        inputs: its arguments.
        sizes: likewise, each tensor's free sizes, by dimension, with the name of each.
        names: what the graph calls the inputs, one after the other.
        output: what it calls the output.
    """
    with torch.no_grad():
        program: Any = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=names,
            output_names=[output],
            dynamic_shapes=sizes,
            dynamo=True,
            verbose=False,
        )
    for node in program.model.graph:
        node.metadata_props.clear()  # lines of Python, four times as large as the graph
    return program


@contextmanager
def _one_sentence(model: nn.Module) -> Iterator[None]:
    """Hide PyTorch's warnings about its own code, and raise BadInput where a model cannot be exported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(cause).splitlines()[0]
        if unknown := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", reason):
            reason = f"PyTorch's {unknown[1]} has no ONNX form."
        raise BadInput(f"{type(model).__name__} cannot be exported: {reason}") from error
