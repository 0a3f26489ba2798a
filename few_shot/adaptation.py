"""The inner loop: how a model adapts to a task. Start reading here.

MAML (Finn et al. 2017, section 2.2) learns initial weights θ from which a few gradient steps on a task's support set,

    θ_i ← θ_i - α ∇ L(f(θ_i), support_i),        θ_i = θ at first,

give fast weights θ_i that do well on the task's query set. The outer loop descends the query losses with respect to
θ, through the steps.

All T tasks of a meta-batch adapt at once. Their fast weights are stacked, ``[T, ...]`` for each parameter, and the
forward pass is vectorised over tasks with ``vmap``. A task's loss depends on its own fast weights alone, so the
gradient of the *sum* of the losses holds every task's own gradient, and plain autograd computes it.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import signature
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from few_shot.attention import plain_attention
from few_shot.episodes import IGNORED
from few_shot.errors import BadInput, check_alike
from few_shot.inner_optimizers import InnerOptimizer, Rates, Weights
from few_shot.layer_errors import explain
from few_shot.private_parts import NormBase
from few_shot.recomputation import Recomputation, recomputed

#: (fast weights [T, ...], inputs [T, n, ...]) -> predictions [T, n, out]
Predict = Callable[[Weights, Tensor], Tensor]
#: (predictions [T, n, out], targets [T, n] or [T, n, 1]) -> each task's loss [T]
TaskLoss = Callable[[Tensor, Tensor], Tensor]
#: What an inner step starts from and leads to: fast weights, the inner optimiser's state, and before it the rates.
#: (Named here, because the compiler cannot read ``tuple[...]`` within a function.)
StepStart = tuple[Weights, Any, Rates]
StepEnd = tuple[Weights, Any]


def predictor(model: nn.Module) -> Predict:
    """The model as a function of T tasks' fast weights; parameters that are not among them are shared by all tasks.

    Any module works that does not change its buffers in the forward pass (``torch.func`` has
    ``replace_all_batch_norm_modules_`` for batch norm with running statistics).
    """
    return over_tasks(model, partial(outputs_of, model))


def outputs_of(model: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    """The model's outputs ``[n, ...]`` for inputs ``[n, ...]``, with one task's weights.

    Raises:
        BadInput: they are no tensor.
    """
    outputs = functional_call(model, weights, (x,))
    if not isinstance(outputs, Tensor):
        kind, name = type(outputs).__name__, type(model).__name__
        raise BadInput(f"{name} returns a value of type {kind}: let its forward() return one tensor.")
    return outputs


def over_tasks(model: nn.Module, of_one_task: Callable[[Weights, Tensor], Any]) -> Callable[[Weights, Tensor], Any]:
    """A function of one task's weights and inputs, made one of T tasks' at once.

    ``vmap`` vectorises it. A model that ``vmap`` has no rule for, such as an LSTM, runs for one task after the other,
    after one sentence that says so.

    Args:
        model: the model in the function.
        of_one_task: (weights, inputs ``[n, ...]``) to a tensor, or to tensors in tuples and lists.
    """
    of_all_tasks = vmap(of_one_task, randomness="different")

    def one_by_one(weights: Weights, x: Tensor) -> Any:
        with torch.backends.cudnn.flags(enabled=False):  # whose recurrent layers have no second derivative
            each = [of_one_task({name: w[i] for name, w in weights.items()}, x[i]) for i in range(len(x))]
        return _stacked(each)

    def predict(weights: Weights, x: Tensor) -> Any:
        if torch.compiler.is_compiling():
            return of_all_tasks(weights, x)
        before = None if x.is_inference() else x._version
        with plain_attention():
            predictions = eagerly(weights, x)
        if before is not None and x._version != before:
            raise BadInput(
                f"{type(model).__name__} changes its input in place, which each inner step reads again: let what "
                "comes first compute a new tensor, without inplace=True or sub_()."
            )
        return predictions

    def eagerly(weights: Weights, x: Tensor) -> Any:
        if model in _ONE_BY_ONE:
            return one_by_one(weights, x)
        try:
            return of_all_tasks(weights, x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            reason = error
        try:
            predictions = one_by_one(weights, x)
        except Exception as error:
            raise explain(model, x[0], error) from error
        run_one_by_one(model)
        warnings.warn(
            f"{type(model).__name__} runs for one task after the other, which is slower: "
            f"it cannot be vectorised over tasks ({str(reason).splitlines()[0]}).",
            stacklevel=2,
        )
        return predictions

    return predict


#: Models that run without ``vmap``.
_ONE_BY_ONE: WeakSet[nn.Module] = WeakSet()


def run_one_by_one(model: nn.Module) -> None:
    """Have a model run for one task after the other, without ``vmap``, from now on."""
    _ONE_BY_ONE.add(model)


def _stacked(each: Sequence[Any]) -> Any:
    """The tasks' tensors ``[...]``, or tensors in tuples and lists, as ``[T, ...]``."""
    if isinstance(each[0], Tensor):
        return torch.stack(list(each))
    return type(each[0])(_stacked(of_all) for of_all in zip(*each, strict=True))


def task_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> TaskLoss:
    """A loss that means over one task's samples, as a function of T tasks at once.

    One of torch.nn.functional that can be asked not to reduce is asked once, for the samples of all tasks. Any other is
    vectorised by ``vmap``; one that ``vmap`` cannot follow is called for one task after the other.

    Samples with the label ``IGNORED`` do not count, as in ``F.cross_entropy``. So tasks of other sizes can be padded.
    """
    of_torch = getattr(F, getattr(loss, "__name__", ""), None) is loss
    options = signature(loss).parameters if of_torch else {}
    if "reduction" not in options:
        return partial(_by_vmap, loss)  # which can be pickled, unlike an inner function
    return partial(_of_all_samples, loss, "ignore_index" in options)


def _of_all_samples(loss: Callable[..., Tensor], ignores: bool, predictions: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        check_alike(predictions.shape[1:], targets.shape[1:])
    try:
        each = loss(predictions.flatten(0, 1), targets.flatten(0, 1), reduction="none")
    except IndexError as error:
        raise BadInput(
            f"The model has {predictions.shape[-1]} outputs, and a task has a label beyond them ({error}): label the N "
            "classes of a task from 0 to N-1, and give the model N outputs."
        ) from error
    each = each.unflatten(0, predictions.shape[:2]).flatten(1)
    if targets.is_floating_point() or not ignores:
        return each.mean(1)
    return each.sum(1) / (targets != IGNORED).flatten(1).sum(1)


def _by_vmap(loss: Callable[..., Tensor], predictions: Tensor, targets: Tensor) -> Tensor:
    of_all_tasks = vmap(loss, randomness="different")
    if torch.compiler.is_compiling():
        return of_all_tasks(predictions, targets)
    try:
        return of_all_tasks(predictions, targets)
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return torch.stack([loss(*of_one) for of_one in zip(predictions, targets, strict=True)])


def head_name(model: nn.Module) -> str:
    """The name of the last module that holds parameters of its own: the classifier, in every backbone here.

    Last in the order in which the model registers its modules; the rest of the model is its body. A layer whose weight
    is computed from others (``torch.nn.utils.parametrizations``) is one with them.
    """
    *_, last = (name for name, module in model.named_modules() if list(module.parameters(recurse=False)))
    return f".{last}".partition(".parametrizations")[0].removeprefix(".")


def head_parameters(model: nn.Module) -> set[str]:
    """The names of the head's parameters.

    Raises:
        BadInput: the body has one of them too.
    """
    head = head_name(model)
    own = set(model.get_submodule(head).parameters())
    names = {name for name, p in model.named_parameters(remove_duplicate=False) if p in own}
    if shared := [name for name in names if head and not name.startswith(f"{head}.")]:
        raise BadInput(f"The head of {type(model).__name__}, {head}, shares a weight with its body, {min(shared)}.")
    return names


def norm_parameters(model: nn.Module) -> set[str]:
    """The names of the parameters of batch, group, layer and instance norm."""
    kinds = (NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    return {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        for own, _ in module.named_parameters(recurse=False)
    }


def stack(weights: Weights, tasks: int) -> Weights:
    """The same weights for every task: ``[...]`` to ``[T, ...]``, without a copy."""
    return {name: w.expand(tasks, *w.shape) for name, w in weights.items()}


def inner_loop(
    support_loss: Callable[[Weights], Tensor],
    weights: Weights,
    *,
    steps: int,
    optimizer: InnerOptimizer,
    rates: Callable[[int], Rates],
    first_order: bool = False,
    recomputation: Recomputation | None = None,
) -> Iterator[Weights]:
    """Yield the fast weights ``[T, ...]`` before the first step and after each.

    The caller's grad mode says whether the outer gradient flows: under ``torch.no_grad()`` nothing is kept of a step
    once its fast weights are computed, so memory does not grow with steps or episodes.

    Args:
        support_loss: fast weights to each task's loss on its support set, ``[T]``.
        weights: the initial fast weights, ``[T, ...]`` each (see :func:`stack`).
        steps: gradient steps, at least 0.
        optimizer: the rule of a step.
        rates: step number (from 0) to each parameter's inner learning rate.
        first_order: whether the inner gradients count as constants in the outer gradient (FOMAML; section 5.2).
        recomputation: how to compute the steps again in the outer backward pass, instead of keeping them; None keeps
            them. Without an outer gradient through the steps there is nothing to keep.
    """
    outer_gradient = torch.is_grad_enabled()
    second_order = outer_gradient and not first_order
    state: Any = None

    def one_step(start: StepStart, keep_graph: bool) -> StepEnd:
        weights, state, rates = start
        with torch.enable_grad():
            loss = support_loss(weights).sum()
            if not (weights and loss.requires_grad):
                raise BadInput(
                    "There is nothing to adapt: all weights that the inner loop would change are frozen, or the "
                    "predictions do not depend on them."
                )
            gradients = torch.autograd.grad(
                loss, list(weights.values()), create_graph=keep_graph, materialize_grads=True
            )
        return optimizer(weights, dict(zip(weights, gradients, strict=True)), rates, state)

    yield weights
    for step in range(steps):
        if not outer_gradient:
            weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        start = weights, state, rates(step)
        if second_order and recomputation is not None:
            again = partial(recomputation.again, step)
            weights, state = recomputed(one_step, start, recomputation.shared, again)
        else:
            weights, state = one_step(start, second_order)
        yield weights


def last(fast_weights: Iterator[Weights]) -> Weights:
    """The last that the inner loop yields, without keeping those before."""
    return deque(fast_weights, maxlen=1).pop()


def with_gradients(values: Tensor, weights: Weights, gradients: Weights) -> Tensor:
    """``values`` ``[T]`` whose gradient, by the shared ``weights``, is ``gradients``, ``[T, ...]`` each.

    For outer rules that compute their gradient themselves. It reaches the weights through autograd, so that hooks,
    which is how several processes average their gradients, see it; a ``.grad`` that is assigned bypasses them.
    """
    products = [(w * gradients[name].detach()).reshape(len(values), -1).sum(1) for name, w in weights.items()]
    carrier = torch.stack(products).sum(0)
    return values.detach() + (carrier - carrier.detach())  # exactly the values


def predict_apart(predict: Predict, weights: Weights, support_x: Tensor, query_x: Tensor) -> Tensor:
    """Query predictions ``[T, N*Q, out]`` in which no query sample sees another (non-transductive).

    Support and query pass the network together, and batch norm takes its statistics from the support samples alone.
    A model may fold another axis into the batch, such as a picture's patches, if those of a sample stay together.
    """
    shots, samples = support_x.shape[1], support_x.shape[1] + query_x.shape[1]
    with _StatisticsOf(shots, samples):
        return predict(weights, torch.cat([support_x, query_x], dim=1))[:, shots:]


class _StatisticsOf(TorchFunctionMode):
    """Batch norm by the statistics of the first ``shots`` of the ``samples`` in the batch.

    Batch norm by given statistics, which looks at no batch, is left alone.
    """

    def __init__(self, shots: int, samples: int) -> None:
        super().__init__()
        self.shots, self.samples = shots, samples

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.batch_norm:
            return self.batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def batch_norm(
        self, x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        rows = x.shape[0]
        if rows % self.samples != 0:
            raise BadInput(
                f"transductive=False cannot tell support from query samples in this model: its batch norm is given "
                f"{rows} rows for {self.samples} samples."
            )
        over = [d for d in range(x.dim()) if d != 1]
        var, mean = torch.var_mean(x[: self.shots * (rows // self.samples)], dim=over, correction=0, keepdim=True)
        x = (x - mean) * torch.rsqrt(var + eps)
        shape = [-1 if d == 1 else 1 for d in range(x.dim())]
        return x if weight is None else x * weight.view(shape) + bias.view(shape)
