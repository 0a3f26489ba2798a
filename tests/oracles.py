"""What the fast path must equal: MAML written task by task, as one would on paper."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from few_shot.episodes import EpisodeBatch


def adapt_one_task(model, loss, support_x, support_y, steps, inner_lr, first_order) -> dict[str, Tensor]:
    """Fast weights of a single task after plain gradient steps."""
    weights = dict(model.named_parameters())
    for _ in range(steps):
        support_loss = loss(functional_call(model, weights, (support_x,)), support_y)
        gradients = torch.autograd.grad(support_loss, list(weights.values()), create_graph=not first_order)
        weights = {name: w - inner_lr * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    return weights


def meta_loss(model, loss, batch: EpisodeBatch, steps, inner_lr, first_order=False) -> Tensor:
    """Mean query loss of the tasks, one after the other."""
    losses = []
    for support_x, support_y, query_x, query_y, _ in zip(*batch, strict=True):
        weights = adapt_one_task(model, loss, support_x, support_y, steps, inner_lr, first_order)
        losses.append(loss(functional_call(model, weights, (query_x,)), query_y))
    return torch.stack(losses).mean()


def meta_gradient(model: nn.Module, *args, **kwargs) -> Tensor:
    """The gradient of :func:`meta_loss` with respect to all parameters, as one vector."""
    gradients = torch.autograd.grad(meta_loss(model, *args, **kwargs), list(model.parameters()))
    return torch.cat([g.flatten() for g in gradients])


def relative_error(value: Tensor, oracle: Tensor) -> float:
    return ((value - oracle).norm() / oracle.norm()).item()
