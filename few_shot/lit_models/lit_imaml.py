"""Implicit MAML (Rajeswaran, Finn, Kakade & Levine 2019, https://arxiv.org/abs/1909.04630)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from few_shot.adaptation import inner_loop, last, stack, with_gradients
from few_shot.episodes import EpisodeBatch
from few_shot.errors import above_zero, at_least
from few_shot.inner_optimizers import Rates, Weights
from few_shot.lit_models.base import TaskScores
from few_shot.lit_models.lit_maml import LitMAML


class LitIMAML(LitMAML):
    """MAML whose inner loop stays near the initial weights, so that its end, not its way, gives the outer gradient.

    The inner loop descends L(φ, support) + λ/2 ‖φ - θ‖² (equation 3). At its minimum φ, the outer gradient is the
    solution g of (I + H/λ) g = ∇ L(φ, query), with H the Hessian of the support loss at φ (lemma 1 and equation 6).
    Conjugate gradients find it from Hessian-vector products, for all tasks at once. No inner step is kept, so memory
    does not grow with their number.

    MAML's gradient, which passes through the steps, shuns weights whose loss is too sharp for the inner rate; this one
    does not see the steps, and drives there. So a step after which a task's gradient is longer than before is taken
    back when the next one is due, and tried again at half its rate. The last step is not checked. What momentum and
    Adam remember is not taken back.

    Args:
        proximal_strength: λ, the pull back to the initial weights.
        cg_steps: conjugate gradient steps, 1 or more.
        inner_loop_steps: inner steps in training, enough to come near the minimum.

    Raises:
        BadInput: a number is out of its range.
    """

    unused: ClassVar = {
        **dict.fromkeys(("first_order", "checkpoint_inner_loop"), "its gradient does not pass through the inner steps"),
        "adapt_norm": "what its inner loop does not adapt, its outer loop would not train",
    }

    def __init__(
        self,
        model: nn.Module,
        proximal_strength: float = 2.0,
        cg_steps: int = 5,
        inner_loop_steps: int = 16,
        **maml,
    ) -> None:
        super().__init__(model, inner_loop_steps=inner_loop_steps, first_order=False, **maml)
        above_zero("proximal_strength", proximal_strength)
        self.proximal_strength = proximal_strength
        self.cg_steps = at_least(1, cg_steps, "cg_steps")

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int) -> Iterator[Weights]:
        """Yield the tasks' fast weights before the first proximal step and after each."""
        initial = stack(self.adapted_weights(), len(support_x))

        def proximal(weights: Weights, gradients: Weights, rates: Rates, state: Any) -> tuple[Weights, Any]:
            """A step of the inner optimiser on the support loss with its pull to the initial weights."""
            pulled = {n: g + self.proximal_strength * (weights[n] - initial[n]) for n, g in gradients.items()}
            size = dot(list(pulled.values()), list(pulled.values()))
            if state is None:
                state = (weights, pulled, size, torch.ones_like(size), None)
            *before, size_before, share, inner_state = state
            grown = ~(size <= size_before)
            weights, pulled = (
                {n: torch.where(_along(x, grown), old[n], x) for n, x in new.items()}
                for old, new in zip(before, (weights, pulled), strict=True)
            )
            size, share = torch.where(grown, size_before, size), torch.where(grown, share / 2, share)
            rates = {n: rates[n] * _along(g, share) for n, g in pulled.items()}
            stepped, inner_state = self.inner_optimizer(weights, pulled, rates, inner_state)
            return stepped, (weights, pulled, size, share, inner_state)

        return inner_loop(
            self.support_loss(support_x, support_y),
            initial,
            steps=steps,
            optimizer=proximal,
            rates=self.inner_rates,
        )

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        """The query losses at the inner loop's end, with the implicit gradient."""
        with torch.no_grad():
            fast_weights = last(self.adapt(batch.support_x, batch.support_y, self.inner_loop_steps))
        names = list(fast_weights)
        leaves = [w.detach().requires_grad_() for w in fast_weights.values()]
        weights = dict(zip(names, leaves, strict=True))
        with torch.enable_grad():
            loss, metric = self.scores(self.predictions_of(batch.query_x)(weights), batch.query_y)
            query_gradients = torch.autograd.grad(loss.sum(), leaves, materialize_grads=True)
            support_loss = self.support_loss(batch.support_x, batch.support_y)(weights).sum()
            slopes = torch.autograd.grad(support_loss, leaves, create_graph=True, materialize_grads=True)

        def multiply(vector: list[Tensor]) -> list[Tensor]:
            """(I + H/λ) v."""
            slope = dot(slopes, vector).sum()
            products = torch.autograd.grad(slope, leaves, retain_graph=True, materialize_grads=True)
            return [v + hv / self.proximal_strength for v, hv in zip(vector, products, strict=True)]

        implicit = conjugate_gradient(multiply, list(query_gradients), self.cg_steps)
        return TaskScores(
            with_gradients(loss.detach(), self.adapted_weights(), dict(zip(names, implicit, strict=True))), metric
        )


def _along(x: Tensor, values: Tensor) -> Tensor:
    """Each task's value, ``[T]``, in a shape that broadcasts against ``x``, ``[T, ...]``."""
    return values.view(-1, *[1] * (x.dim() - 1))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Each task's inner product of vectors that are spread over tensors ``[T, ...]``; returns ``[T]``."""
    return torch.stack([(x * y).reshape(len(x), -1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


def conjugate_gradient(
    multiply: Callable[[list[Tensor]], list[Tensor]], target: list[Tensor], steps: int
) -> list[Tensor]:
    """Solve A x = b for T tasks at once, from x = 0 (Hestenes & Stiefel 1952).

    A task stops where it is once it has arrived, or when a direction has no positive curvature: there the Hessian is
    not that of a minimum, and a further step would lead away. Where the first direction has none, that is x = 0: the
    task adds nothing to the outer gradient.

    Args:
        multiply: maps vectors v to A v.
        target: b, one tensor ``[T, ...]`` for each parameter.
        steps: how often A is applied, at most.
    """

    def add(a: list[Tensor], scale: Tensor, b: list[Tensor]) -> list[Tensor]:
        return [x + _along(x, scale) * y for x, y in zip(a, b, strict=True)]

    solution = [torch.zeros_like(b) for b in target]
    residual, direction = target, target
    size = start = dot(residual, residual)
    going = torch.ones_like(size, dtype=torch.bool)
    for _ in range(steps):
        image = multiply(direction)
        curvature = dot(direction, image)
        going = going & (curvature > 0) & (size > torch.finfo(size.dtype).eps ** 2 * start)
        stride = torch.where(going, size / torch.where(going, curvature, 1), 0)
        solution = add(solution, stride, direction)
        residual = add(residual, -stride, image)
        before, size = size, dot(residual, residual)
        direction = add(residual, torch.where(going, size / torch.where(going, before, 1), 0), direction)
    return solution
