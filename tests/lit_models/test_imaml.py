"""iMAML against the closed form on linear tasks, finite differences, and what it promises of memory."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from oracles import flat_gradient, relative_error, slope
from torch.func import functional_call

from few_shot.errors import BadInput
from few_shot.lit_models import LitIMAML, LitMAML
from few_shot.lit_models.lit_imaml import conjugate_gradient
from few_shot.models import SinusoidMLP

LAMBDA = 1.5


def imaml(model, **arguments):
    arguments = {"inner_lr": 0.1, "proximal_strength": LAMBDA, "inner_loop_steps": 400, "cg_steps": 40} | arguments
    return LitIMAML(model, loss="mse_loss", metric="mse", **arguments)


def outer_loss(lit_model, batch):
    return lit_model.outer_scores(batch).loss.mean()


def test_linear_tasks_have_a_closed_form(linear):
    """argmin ‖Xφ - y‖²/n + λ/2 ‖φ - θ‖² = (A + λI)⁻¹ (b + λθ), with A = 2XᵀX/n and b = 2Xᵀy/n."""
    model, batch = linear
    theta = model.weight.detach().T.clone().requires_grad_()
    x, y, n = batch.support_x, batch.support_y, batch.support_x.shape[1]
    minimum = torch.linalg.solve(2 * x.mT @ x / n + LAMBDA * torch.eye(4), 2 * x.mT @ y / n + LAMBDA * theta)
    oracle_loss = (batch.query_x @ minimum - batch.query_y).square().mean()
    (oracle,) = torch.autograd.grad(oracle_loss, theta)
    lit_model = imaml(model)
    *_, fast_weights = lit_model.adapt(batch.support_x, batch.support_y, 400)
    assert relative_error(fast_weights["weight"].mT, minimum) < 1e-12
    loss = outer_loss(lit_model, batch)
    assert loss.item() == pytest.approx(oracle_loss.item(), rel=1e-12)
    assert relative_error(flat_gradient(loss, model), oracle.flatten()) < 1e-10


def test_a_network_against_finite_differences_of_the_whole_inner_loop(smooth):
    model, batch = smooth
    lit_model = imaml(model)
    gradient = flat_gradient(outer_loss(lit_model, batch), model)
    direction = gradient / gradient.norm()
    assert slope(lambda: outer_loss(lit_model, batch), model, direction) == pytest.approx(gradient.norm().item(), 1e-5)


def test_the_implicit_gradient_is_that_through_all_steps(smooth):
    model, batch = smooth
    lit_model = imaml(model)
    explicit = LitMAML.outer_scores(lit_model, batch).loss.mean()
    implicit = outer_loss(lit_model, batch)
    assert implicit.item() == pytest.approx(explicit.item(), rel=1e-12)
    assert relative_error(flat_gradient(implicit, model), flat_gradient(explicit, model)) < 1e-6


def test_the_proximal_term_holds_the_weights_back(smooth):
    model, batch = smooth
    ways = []
    for strength in (0.1, 10.0):
        lit_model = imaml(model, proximal_strength=strength, inner_lr=0.05)
        with torch.no_grad():
            *_, fast_weights = lit_model.adapt(batch.support_x, batch.support_y, 100)
        ways.append(sum((w - dict(model.named_parameters())[n]).norm() for n, w in fast_weights.items()).item())
    assert ways[1] < 0.3 * ways[0]


def test_evaluation_is_the_proximal_inner_loop(smooth):
    model, batch = smooth
    lit_model = imaml(model)
    scores = lit_model.step_scores(batch, [0, 2])
    for task, (x, y, query_x, query_y, _) in enumerate(zip(*batch, strict=True)):
        start = {name: p.detach() for name, p in model.named_parameters()}
        weights = start
        for _ in range(2):
            weights = {name: w.clone().requires_grad_() for name, w in weights.items()}
            pull = sum((w - start[name]).square().sum() for name, w in weights.items())
            objective = F.mse_loss(functional_call(model, weights, (x,)), y) + LAMBDA / 2 * pull
            gradients = torch.autograd.grad(objective, list(weights.values()))
            weights = {n: (w - 0.1 * g).detach() for (n, w), g in zip(weights.items(), gradients, strict=True)}
        loss = F.mse_loss(functional_call(model, weights, (query_x,)), query_y)
        assert scores[1].loss[task].item() == pytest.approx(loss.item(), rel=1e-10)


def peak_of_saved_bytes(lit_model, batch):
    """The most that autograd keeps at one time for a backward pass."""
    now, peak = 0, 0

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    def free(size):
        nonlocal now
        now -= size

    def pack(tensor):
        nonlocal now, peak
        size, kept = tensor.numel() * tensor.element_size(), Kept(tensor)
        now += size
        peak = max(peak, now)
        weakref.finalize(kept, free, size)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        outer_loss(lit_model, batch).backward()
    return peak


def test_memory_does_not_grow_with_inner_steps(smooth):
    model, batch = smooth
    implicit, explicit = (
        [peak_of_saved_bytes(cls(model, loss="mse_loss", metric="mse", inner_loop_steps=n), batch) for n in (2, 20)]
        for cls in (LitIMAML, LitMAML)
    )
    assert implicit[1] == implicit[0] > 0
    assert explicit[1] > 5 * explicit[0]


def test_conjugate_gradients_solve_every_task(float64):
    torch.manual_seed(0)
    root = torch.randn(5, 6, 6)
    matrix = root @ root.mT + torch.eye(6)
    matrix[1] = torch.eye(6)  # arrives after one step
    matrix[2] = -matrix[2]  # no minimum: stays where it is
    b = torch.randn(5, 6)
    b[3] = 0  # there from the start

    def multiply(v):
        product = (matrix @ torch.cat([v[0][:, None], v[1]], dim=1)[..., None])[..., 0]
        return [product[:, 0], product[:, 1:]]

    one, rest = conjugate_gradient(multiply, [b[:, 0], b[:, 1:]], steps=30)
    found = torch.cat([one[:, None], rest], dim=1)
    oracle = torch.linalg.solve(matrix, b)
    for task in (0, 1, 3, 4):
        torch.testing.assert_close(found[task], oracle[task], rtol=1e-8, atol=1e-10)
    assert (found[2] == 0).all()


@pytest.mark.parametrize("arguments", [{"proximal_strength": 0.0}, {"cg_steps": 0}])
def test_impossible_values_are_named(arguments):
    with pytest.raises(BadInput, match=f"^{next(iter(arguments))}="):
        LitIMAML(SinusoidMLP(), **arguments)
