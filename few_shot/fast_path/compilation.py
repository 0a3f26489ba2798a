"""A meta-training step as one compiled function: losses, inner loop and outer gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

import few_shot.fast_path.small_products as small_products
from few_shot.episodes import EpisodeBatch
from few_shot.private_parts import compiler_pass, trace_gradients

#: batch of T tasks -> each task's loss and metric, ``[T]`` both
Scores = Callable[[EpisodeBatch], tuple[Tensor, Tensor]]


def compile_scores(scores: Scores, parameters: Sequence[nn.Parameter]) -> Scores:
    """The same function, compiled together with its gradient: autograd has nothing left to do but to hand it on.

    The gradient is that of the losses' sum, so whatever is made of them must weigh all tasks alike.
    """
    trace_gradients()

    def scores_and_gradients(batch: EpisodeBatch) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        loss, metric = scores(batch)
        return loss.detach(), metric, torch.autograd.grad(loss.sum(), parameters, allow_unused=True)

    compiled: Callable | None = None

    def compiled_scores(batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        nonlocal compiled
        if compiled is None:
            options = _on_the_cpu() if batch.index.device.type == "cpu" else None
            compiled = torch.compile(scores_and_gradients, fullgraph=True, dynamic=False, options=options)
        loss, metric, gradients = compiled(batch)
        reached = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        return _WithGradient.apply(loss, [g for _, g in reached], *(p for p, _ in reached)), metric

    return compiled_scores


def _on_the_cpu() -> dict[str, Any]:
    return {
        "cpp_wrapper": True,  # C++ calls the kernels too, which are small
        "cpp.vec_isa_ok": True,  # they run on this CPU: each start would take ten seconds to try it
        "post_grad_custom_pre_pass": compiler_pass(small_products.rewrite, small_products.__file__),
    }


class _WithGradient(Function):
    """Losses ``[T]`` whose sum's gradient by the parameters is known."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, by_losses: Tensor) -> Any:  # type: ignore[override]
        return None, None, *(gradient * by_losses[0] for gradient in ctx.gradients)
