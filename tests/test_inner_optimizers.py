"""Momentum and Adam against torch.optim, and their gradients where Adam's own is infinite."""

import numpy as np
import pytest
import torch
from oracles import meta_loss, relative_error

from few_shot import inner_optimizers
from few_shot.data import Sinusoid
from few_shot.inner_optimizers import EPSILON, INNER_OPTIMIZERS, adam, momentum
from few_shot.lit_models import LitMAML
from few_shot.models import SinusoidMLP

TASKS, STEPS, RATE = 3, 6, 0.05


def trajectory(rule, start, gradients, rate=RATE):
    """Stacked weights after each step; gradients are ``[steps, T, ...]``."""
    weights, state, trail = {"w": start}, None, []
    for g in gradients:
        weights, state = rule(weights, {"w": g}, {"w": rate}, state)
        trail.append(weights["w"])
    return torch.stack(trail)


def torch_trajectory(make_optimizer, start, gradients):
    """The same of one task after the other by torch.optim."""
    tasks = []
    for task in range(len(start)):
        w = torch.nn.Parameter(start[task].clone())
        optimizer, trail = make_optimizer([w]), []
        for g in gradients[:, task]:
            w.grad = g.clone()
            optimizer.step()
            trail.append(w.detach().clone())
        tasks.append(torch.stack(trail))
    return torch.stack(tasks, dim=1)


@pytest.fixture
def steps(float64):
    torch.manual_seed(0)
    return torch.randn(TASKS, 4, 2), torch.randn(STEPS, TASKS, 4, 2)


def test_momentum_is_torchs(steps):
    oracle = torch_trajectory(lambda w: torch.optim.SGD(w, lr=RATE, momentum=0.9), *steps)
    torch.testing.assert_close(trajectory(momentum, *steps), oracle, rtol=0, atol=1e-14)


def test_adam_is_torchs_but_for_epsilon(steps, monkeypatch):
    oracle = torch_trajectory(lambda w: torch.optim.Adam(w, lr=RATE, eps=0), *steps)
    _, gradients = steps
    smallest = min(g.abs().min().item() for g in gradients)
    # Each step is shortened by the factor s / sqrt(s^2 + eps^2), and s is at least the smallest gradient / sqrt(t).
    shortened = 1 - 1 / np.sqrt(1 + STEPS * EPSILON**2 / smallest**2)
    difference = (trajectory(adam, *steps) - oracle).abs().max()
    assert difference <= STEPS * RATE * 2 * shortened
    assert difference > 0
    monkeypatch.setattr(inner_optimizers, "EPSILON", 1e-12)
    torch.testing.assert_close(trajectory(adam, *steps), oracle, rtol=0, atol=1e-14)


def test_how_much_shorter_a_step_of_adam_is(float64):
    """The docstring's numbers: the first step has s = |g|."""
    for times_epsilon, shorter in ((100, 5e-5), (10, 5e-3), (1, 0.29)):
        g = torch.full((1, 1), times_epsilon * EPSILON)
        step = -trajectory(adam, torch.zeros(1, 1), g[None], rate=1.0).item()
        assert 1 - step == pytest.approx(shorter, rel=0.02)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_gradients_through_the_steps_are_finite_differences(float64, name):
    """First and second derivative of the weights by start, gradients and rate; one component's gradients are zero."""
    torch.manual_seed(0)
    start, gradients = torch.randn(2, 3), 1e-2 * torch.randn(3, 2, 3)
    gradients[:, 0, 0] = 0
    inputs = [x.requires_grad_() for x in (start, gradients, torch.tensor(RATE))]

    def function(start, gradients, rate):
        return trajectory(INNER_OPTIMIZERS[name], start, gradients, rate)

    assert torch.autograd.gradcheck(function, inputs, eps=1e-8, atol=1e-4)
    assert torch.autograd.gradgradcheck(function, inputs, eps=1e-8, atol=1e-2, rtol=1e-3)


def lit_maml(name, **arguments):
    torch.manual_seed(0)
    return LitMAML(SinusoidMLP(), loss="mse_loss", metric="mse", inner_optimizer=name, **arguments)


def episodes(index, dtype=torch.float32):
    data = Sinusoid()
    return data.prepare(data.draw("train", 0, index), "train", dtype)


def outer_gradient(lit_model, batch):
    loss = lit_model.outer_scores(batch).loss.mean()
    return loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(lit_model.parameters()))])


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_outer_gradient_where_gradient_components_are_exactly_zero(float64, name):
    """Dead units have a zero support gradient; the outer gradient is finite and, second order and all, right."""
    lit_model = lit_maml(name, inner_loop_steps=3, inner_lr=1e-3)
    with torch.no_grad():
        lit_model.model[1].bias[:10] = -1e3
    batch = episodes(np.arange(4), torch.float64)
    gradient = outer_gradient(lit_model, batch)[1]
    assert torch.isfinite(gradient).all()
    direction = gradient / gradient.norm()
    start = torch.nn.utils.parameters_to_vector(lit_model.parameters()).detach()
    values = []
    for h in (1e-7, -1e-7):
        torch.nn.utils.vector_to_parameters(start + h * direction, lit_model.parameters())
        values.append(lit_model.outer_scores(batch).loss.mean().item())
    assert (values[0] - values[1]) / 2e-7 == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_the_state_is_carried_from_step_to_step(float64):
    """With every rule two steps by one generator are not two separate first steps."""
    batch = episodes(np.arange(4), torch.float64)
    for name in ("momentum", "adam"):
        twice = lit_maml(name, inner_loop_steps=2)
        plain = lit_maml("sgd", inner_loop_steps=2)
        *_, one = twice.adapt(batch.support_x, batch.support_y, 2)
        *_, other = plain.adapt(batch.support_x, batch.support_y, 2)
        assert relative_error(one["3.weight"], other["3.weight"]) > 1e-6
    sgd = lit_maml("sgd", inner_loop_steps=2)
    oracle = meta_loss(sgd.model, torch.nn.functional.mse_loss, batch, 2, sgd.inner_lr)
    assert outer_gradient(sgd, batch)[0].item() == pytest.approx(oracle.item(), rel=1e-12)


def test_hundreds_of_second_order_updates_through_adam_stay_finite_and_learn():
    lit_model = lit_maml("adam", inner_loop_steps=2)
    optimizer = torch.optim.Adam(lit_model.parameters(), lr=1e-3)
    losses, norms = [], []
    for update in range(400):
        loss = lit_model.outer_scores(episodes(25 * update + np.arange(25))).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in lit_model.parameters()]).item())
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and np.isfinite(norms).all()
    assert max(norms) < 100 * np.median(norms)
    assert np.mean(losses[-50:]) < 0.8 * np.mean(losses[:50])
