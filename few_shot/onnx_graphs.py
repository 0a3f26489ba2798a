"""A learner's adaptation, inner gradients included, and its network, as ONNX graphs.

``torch.export`` cannot look into ``torch.autograd.grad``. ``make_fx`` can: it records the operations of the forward and
the backward passes alike, as one function that has no gradient left to take. That function is exported.
"""

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import default_decompositions
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from few_shot.adaptation import head_name, run_one_by_one
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.inner_optimizers import Rates, Weights
from few_shot.lit_models import LitMAML, LitProtoNet
from few_shot.lit_models.adapted_model import OFF, linear_head
from few_shot.lit_models.base import LitMetaLearner
from few_shot.lit_models.without_head import LitWithoutHead
from few_shot.private_parts import with_free_size

aten = torch.ops.aten

#: Outputs of ProtoNet's graph, whose learner takes any number of classes.
MOST_CLASSES = 20
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
        if of_classes and linear_head(learner.model) is None:
            raise BadInput(
                f"{type(learner.model).__name__} cannot be exported: it has no linear head, whose outputs could be "
                "turned off for a task of fewer classes."
            )
        learner.folded_layers = None
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
        learner = self.learner
        episode = EpisodeBatch(*(x[None] for x in (support_x, support_y, query_x, support_y, support_y)))
        with torch.no_grad():
            if isinstance(learner, LitProtoNet):
                outputs = learner.logits(episode, transductive=False, classes=MOST_CLASSES)
                outputs = torch.where(_in_use(MOST_CLASSES, support_y), outputs, OFF)
            else:
                own = type(learner).inner_rates

                def rates(step: int) -> Rates:
                    factors = own(learner, step)
                    return {name: inner_lr[0] * (r if self.learns_rates else 1) for name, r in factors.items()}

                learner.inner_rates = rates  # type: ignore[method-assign]
                outputs = torch.cat(learner.step_predictions(episode, list(range(self.steps + 1))))
        return outputs.softmax(-1) if self.of_classes else outputs

    def by(self, weights: Weights, support_x: Tensor, support_y: Tensor, *others: Tensor) -> Tensor:
        """The same by given weights, named as the learner's; classes that the support set does not have are off."""
        if self.of_classes and isinstance(self.learner, LitMAML):
            bias = f"model.{head_name(self.learner.model)}.bias"
            used = _in_use(len(weights[bias]), support_y)
            weights = weights | {bias: torch.where(used, weights[bias], OFF)}
        weights = {f"learner.{name}": w for name, w in weights.items()}
        return functional_call(self, weights, (support_x, support_y, *others))


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
    sizes = [{0: "support"}, {0: "support"}, {0: "query"}, {}][: len(inputs)]
    learner = adaptation.learner
    with _one_sentence(learner.model):
        weights = _weights(learner)
        free = [False] * len(weights) + [bool(size) for size in sizes]
        with with_free_size([*weights.values(), *inputs], free) as empty:
            of_weights = dict(zip(weights, empty, strict=False))
            graph = make_fx(adaptation.by, _decompositions())(of_weights, *empty[len(weights) :])
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
        sizes = ({name: {} for name in weights}, {0: "n"})
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
        raise BadInput(f"{type(model).__name__} cannot be exported: {str(cause).splitlines()[0]}") from error


def _decompositions() -> dict[Any, Any]:
    """PyTorch's own, and those of derivatives that ONNX has no operation for."""
    return {
        **default_decompositions(),
        aten.convolution_backward.default: _convolution_backward,
        aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
        aten.select_backward.default: _select_backward,
    }


def _convolution_backward(
    gradient, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, wanted
):
    """By x a transposed convolution, by the weight a convolution of x with the gradient, samples as channels."""
    if transposed or groups > 1:
        raise NotImplementedError(
            "the gradient of a convolution that is transposed or in groups has no ONNX form here."
        )
    by_x = by_weight = by_bias = None
    over = range(x.dim() - 2)
    if wanted[0]:
        covered = [
            (gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1
            for i in over
        ]
        rest = [x.shape[2 + i] - covered[i] for i in over]  # rows at the end that the last stride does not reach
        by_x = aten.convolution(gradient, weight, None, stride, padding, dilation, True, rest, 1)
    if wanted[1]:
        zeros = [0] * len(over)
        by_weight = aten.convolution(
            x.transpose(0, 1), gradient.transpose(0, 1), None, dilation, padding, stride, False, zeros, 1
        )
        for i in over:
            by_weight = by_weight.narrow(2 + i, 0, weight.shape[2 + i])
        by_weight = by_weight.transpose(0, 1)
    if wanted[2]:
        by_bias = gradient.sum([0, *range(2, x.dim())])
    return by_x, by_weight, by_bias


def _max_pool_backward(gradient, x, kernel_size, stride, padding, dilation, ceil_mode, indices):
    """Each gradient goes to where its window's largest value is; ``indices`` are places in a flattened channel."""
    return torch.zeros_like(x).flatten(2).scatter_add(2, indices.flatten(2), gradient.flatten(2)).view(x.shape)


def _select_backward(gradient, sizes, dim, index):
    """Zeros but for one row; none of them where there is one row, as of our one task."""
    before, after = list(sizes), list(sizes)
    before[dim], after[dim] = index % sizes[dim], sizes[dim] - index % sizes[dim] - 1
    parts = [gradient.new_zeros(size) if size[dim] else None for size in (before, after)]
    return torch.cat([p for p in (parts[0], gradient.unsqueeze(dim), parts[1]) if p is not None], dim)
