"""What the fast path must equal: MAML written task by task, as one would on paper."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from few_shot.episodes import EpisodeBatch


def adapt_one_task(model, loss, support_x, support_y, steps, inner_lr, first_order, adapted=None) -> dict[str, Tensor]:
    """Weights of a single task after plain gradient steps on those parameters that ``adapted`` names, or on all.

    ``inner_lr`` is one rate, or each parameter's by name.
    """
    weights = dict(model.named_parameters())
    adapted = list(weights) if adapted is None else adapted
    for _ in range(steps):
        support_loss = loss(functional_call(model, weights, (support_x,)), support_y)
        gradients = torch.autograd.grad(support_loss, [weights[name] for name in adapted], create_graph=not first_order)
        rates = inner_lr if isinstance(inner_lr, dict) else dict.fromkeys(adapted, inner_lr)
        steps_taken = {name: rates[name] * g for name, g in zip(adapted, gradients, strict=True)}
        weights = weights | {name: weights[name] - step for name, step in steps_taken.items()}
    return weights


def meta_loss(model, loss, batch: EpisodeBatch, steps, inner_lr, first_order=False, adapted=None) -> Tensor:
    """Mean query loss of the tasks, one after the other."""
    losses = []
    for support_x, support_y, query_x, query_y, _ in zip(*batch, strict=True):
        weights = adapt_one_task(model, loss, support_x, support_y, steps, inner_lr, first_order, adapted)
        losses.append(loss(functional_call(model, weights, (query_x,)), query_y))
    return torch.stack(losses).mean()


def meta_gradient(model: nn.Module, *args, **kwargs) -> Tensor:
    """The gradient of :func:`meta_loss` with respect to all parameters, as one vector."""
    gradients = torch.autograd.grad(meta_loss(model, *args, **kwargs), list(model.parameters()))
    return torch.cat([g.flatten() for g in gradients])


def flat_gradient(loss: Tensor, module: nn.Module) -> Tensor:
    """The gradient with respect to all of a module's parameters, as one vector."""
    gradients = torch.autograd.grad(loss, list(module.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


def slope(function, module: nn.Module, direction: Tensor, h: float = 1e-7) -> float:
    """Central finite difference of a function of a module's parameters, which are restored, along a direction."""
    start = torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone()
    values = []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(start + sign * h * direction, module.parameters())
        values.append(function().item())
    torch.nn.utils.vector_to_parameters(start, module.parameters())
    return (values[0] - values[1]) / (2 * h)


def relative_error(value: Tensor, oracle: Tensor) -> float:
    return ((value - oracle).norm() / oracle.norm()).item()
