"""Inner steps that are computed once more in the outer backward pass, instead of being kept until then.

A step's graph holds every activation of its forward and backward pass. Here only what a step starts from is kept: the
fast weights, and the inner optimiser's state. The backward pass computes a step again when it comes to it,
differentiates it, and forgets it. ``torch.utils.checkpoint`` would compute a step three times, because the inner
gradient in it is a backward pass of its own, for which it computes everything again too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

#: (what it starts from, whether to keep the graph of its inner gradient) -> what it leads to: tensors in dicts, tuples
Step = Callable[[Any, bool], Any]


class Recomputation(NamedTuple):
    """What it takes to compute the steps of an inner loop again.

    Args:
        shared: the tensors with a gradient that steps read besides their fast weights and rates.
        again: step number, from 0, to a context in which that step does what it did.
    """

    shared: Sequence[Tensor]
    again: Callable[[int], AbstractContextManager] = lambda step: nullcontext()


def recomputed(step: Step, start: Any, shared: Sequence[Tensor], again: Callable[[], AbstractContextManager]) -> Any:
    """What the step leads to from ``start``; its graph is made in the backward pass.

    Args:
        step: a pure function of ``start`` and ``shared``, but for random numbers, which will be the same.
        again: a context for computing it again.
    """
    form = _with_tensors(start, repeat(_HERE))  # the graph keeps the tensors, not this function
    result: Any = None

    def of_tensors(tensors: Sequence[Tensor], keep_graph: bool) -> list[Tensor]:
        nonlocal result
        found = step(_with_tensors(form, iter(tensors)), keep_graph)
        result = _with_tensors(found, repeat(_HERE))
        return list(_tensors(found))

    tensors = list(_tensors(start))
    found = _Recomputed.apply(of_tensors, again, len(tensors), *tensors, *shared)
    return _with_tensors(result, iter(found))


#: Where a tensor was.
_HERE = object()


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in dicts, tuples and lists."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict | tuple | list):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(branch)


def _with_tensors(tree: Any, new: Iterator[Any]) -> Any:
    """The same dicts, tuples and lists with new tensors, in the same order."""
    if isinstance(tree, Tensor) or tree is _HERE:
        return next(new)
    if isinstance(tree, dict):
        return {key: _with_tensors(branch, new) for key, branch in tree.items()}
    if isinstance(tree, tuple | list):
        branches = [_with_tensors(branch, new) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return tree


class _Recomputed(Function):
    """The step as an operation on tensors: first ``count`` that it starts from, then those that it shares."""

    @staticmethod
    def forward(ctx: Any, step: Callable, again: Callable, count: int, *tensors: Tensor) -> Any:
        ctx.save_for_backward(*tensors[:count])
        ctx.step, ctx.again, ctx.shared = step, again, tensors[count:]
        ctx.surroundings = _Surroundings(tensors[0].device)
        return tuple(t.detach() for t in step(_leaves(tensors[:count]), False))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_results: Tensor) -> Any:
        with ctx.again(), ctx.surroundings.again(), torch.enable_grad():
            tensors = [*_leaves(ctx.saved_tensors), *ctx.shared]
            results = ctx.step(tensors[: len(ctx.saved_tensors)], True)
            reached = [(t, by) for t, by in zip(results, by_results, strict=True) if t.requires_grad]
            outputs, by_outputs = zip(*reached, strict=True)
            needed = [t for t in tensors if t.requires_grad]
            found = iter(torch.autograd.grad(outputs, needed, by_outputs, allow_unused=True))
        return None, None, None, *(next(found) if t.requires_grad else None for t in tensors)


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().requires_grad_(t.requires_grad) for t in tensors]


class _Surroundings:
    """What a computation depends on besides its arguments: the state of the random numbers, and autocast."""

    def __init__(self, device: torch.device) -> None:
        self.kind = device.type
        self.gpus = [device] if self.kind == "cuda" else []
        self.random = torch.get_rng_state(), [torch.cuda.get_rng_state(gpu) for gpu in self.gpus]
        available = torch.amp.is_autocast_available(self.kind)
        self.autocast = available and torch.is_autocast_enabled(self.kind)
        self.dtype = torch.get_autocast_dtype(self.kind) if self.autocast else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """In here they are as they were."""
        casting = torch.autocast(self.kind, self.dtype) if self.autocast else nullcontext()
        with torch.random.fork_rng(self.gpus), casting:
            torch.set_rng_state(self.random[0])
            for gpu, state in zip(self.gpus, self.random[1], strict=True):
                torch.cuda.set_rng_state(state, gpu)
            yield
