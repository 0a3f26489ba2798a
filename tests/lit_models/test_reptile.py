"""Reptile against the closed form on linear tasks and the plain loop."""

import pytest
import torch
import torch.nn.functional as F
from oracles import adapt_one_task, flat_gradient, relative_error

from few_shot.episodes import EpisodeBatch
from few_shot.lit_models import LitIMAML, LitReptile
from few_shot.models import Conv4

STEPS, RATE = 5, 0.1


def reptile(model, loss="mse_loss"):
    metric = "mse" if loss == "mse_loss" else "accuracy"
    return LitReptile(model, loss=loss, metric=metric, inner_loop_steps=STEPS, inner_lr=RATE)


def test_linear_tasks_have_a_closed_form(linear):
    """Gradient descent on ‖Xw - y‖²/n ends at w* + (I - αA)^k (w - w*), with A = 2XᵀX/n and w* its minimum."""
    model, batch = linear
    w = model.weight.detach().T
    x, y = torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1)
    a, b = 2 * x.mT @ x / x.shape[1], 2 * x.mT @ y / x.shape[1]
    minimum = torch.linalg.solve(a, b)
    end = minimum + torch.linalg.matrix_power(torch.eye(4) - RATE * a, STEPS) @ (w - minimum)
    scores = reptile(model).outer_scores(batch)
    gradient = flat_gradient(scores.loss.mean(), model)
    assert relative_error(gradient, (w - end).mean(0).flatten()) < 1e-12
    loss = (x @ end - y).square().mean((1, 2))
    torch.testing.assert_close(scores.loss.detach(), loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("model_and_batch", ["SinusoidMLP", "Conv4"], indirect=True)
def test_an_update_goes_to_the_mean_of_the_plain_loops_ends(model_and_batch):
    """With rate 1 the outer step arrives there."""
    model, loss, batch = model_and_batch
    gradient = flat_gradient(reptile(model, loss).outer_scores(batch).loss.mean(), model)
    ends = []
    for sx, sy, qx, qy, _ in zip(*batch, strict=True):
        x, y = torch.cat([sx, qx]), torch.cat([sy, qy])
        weights = adapt_one_task(model, getattr(F, loss), x, y, STEPS, RATE, first_order=True)
        ends.append(torch.cat([w.detach().flatten() for w in weights.values()]))
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert relative_error(gradient, start - torch.stack(ends).mean(0)) < 1e-9


@pytest.mark.parametrize("cls", [LitReptile, LitIMAML])
def test_normalisation_is_trained_too(cls, float64):
    """Their outer gradient is of what the inner loop adapts: what it left alone would stay as it was drawn."""
    lit_model = cls(Conv4((3, 16, 16), 2, width=4, norm="batch_shift"), inner_loop_steps=2, inner_lr=RATE)
    x, y = torch.rand(2, 4, 3, 16, 16), torch.tensor([[0, 0, 1, 1]] * 2)
    lit_model.outer_scores(EpisodeBatch(x, y, x, y, torch.arange(2))).loss.sum().backward()
    shifts = [
        p for m in lit_model.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters() if p.requires_grad
    ]
    assert shifts and all(p.grad.any() for p in shifts)
