"""The vectorised inner loop against the plain loop, finite differences, and what it promises of memory."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from oracles import adapt_one_task, meta_gradient, meta_loss, relative_error, slope
from torch.func import functional_call

from few_shot.adaptation import inner_loop, predict_apart, predictor, stack, task_loss
from few_shot.inner_optimizers import sgd

STEPS, RATE = 2, 0.01


def adapted(model, loss, batch, first_order=False, steps=STEPS):
    weights = dict(model.named_parameters())
    predict, losses = predictor(model), task_loss(loss)
    return list(
        inner_loop(
            lambda fast_weights: losses(predict(fast_weights, batch.support_x), batch.support_y),
            stack(weights, len(batch.index)),
            steps=steps,
            optimizer=sgd,
            rates=lambda step: dict.fromkeys(weights, RATE),
            first_order=first_order,
        )
    )


def vectorised_gradient(model, loss, batch, first_order=False):
    fast_weights = adapted(model, loss, batch, first_order)[-1]
    query_loss = task_loss(loss)(predictor(model)(fast_weights, batch.query_x), batch.query_y).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(query_loss, list(model.parameters()))])


@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
def test_equals_the_plain_loop(model_and_batch, first_order):
    model, loss, batch = model_and_batch
    loss = getattr(F, loss)
    oracle = meta_gradient(model, loss, batch, STEPS, RATE, first_order)
    assert relative_error(vectorised_gradient(model, loss, batch, first_order), oracle) < 1e-10


def test_first_order_differs_from_second(model_and_batch):
    model, loss, batch = model_and_batch
    loss = getattr(F, loss)
    second, first = (vectorised_gradient(model, loss, batch, order) for order in (False, True))
    assert relative_error(first, second) > 1e-3


def test_second_order_against_finite_differences(model_and_batch):
    model, loss, batch = model_and_batch
    loss = getattr(F, loss)
    gradient = vectorised_gradient(model, loss, batch)
    direction = gradient / gradient.norm()
    measured = slope(lambda: meta_loss(model, loss, batch, STEPS, RATE), model, direction, h=1e-8)
    assert measured == pytest.approx((gradient @ direction).item(), rel=1e-5)


def test_first_order_against_finite_differences(model_and_batch):
    """FOMAML's gradient is that of the query loss when the way from initial to fast weights is held fixed."""
    model, loss, batch = model_and_batch
    loss = getattr(F, loss)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    ways_gone = []
    for x, y, *_ in zip(*batch, strict=True):
        fast = adapt_one_task(model, loss, x, y, STEPS, RATE, first_order=True)
        ways_gone.append({name: (fast[name] - start[name]).detach() for name in start})

    def query_loss():
        losses = []
        for gone, x, y in zip(ways_gone, batch.query_x, batch.query_y, strict=True):
            weights = {name: p + gone[name] for name, p in model.named_parameters()}
            losses.append(loss(functional_call(model, weights, (x,)), y))
        return torch.stack(losses).mean()

    gradient = vectorised_gradient(model, loss, batch, first_order=True)
    direction = gradient / gradient.norm()
    measured = slope(query_loss, model, direction, h=1e-8)
    assert measured == pytest.approx((gradient @ direction).item(), rel=1e-5)


def test_without_grad_mode_adapts_alike_and_keeps_no_graph(model_and_batch):
    model, loss, batch = model_and_batch
    loss = getattr(F, loss)
    with_graph = adapted(model, loss, batch)
    with torch.no_grad():
        without = adapted(model, loss, batch)
    assert len(without) == STEPS + 1
    for one, other in zip(with_graph, without, strict=True):
        for name in one:
            assert other[name].grad_fn is None or not other[name].requires_grad
            torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12)


def test_no_query_sample_sees_another_unless_transductive(model_and_batch):
    model, loss, batch = model_and_batch
    loss = getattr(F, loss)
    predict = predictor(model)
    with torch.no_grad():
        *_, fast_weights = adapted(model, loss, batch)
        together = predict_apart(predict, fast_weights, batch.support_x, batch.query_x)
        alone = [
            predict_apart(predict, fast_weights, batch.support_x, batch.query_x[:, i : i + 1])
            for i in range(batch.query_x.shape[1])
        ]
        torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-9, atol=1e-10)
        transductive = predict(fast_weights, batch.query_x)
        uses_batch = any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
        assert torch.allclose(together, transductive, rtol=1e-9) != uses_batch
        # On the support set itself the two agree.
        torch.testing.assert_close(
            predict_apart(predict, fast_weights, batch.support_x, batch.support_x),
            predict(fast_weights, batch.support_x),
            rtol=1e-9,
            atol=1e-10,
        )


MEMORY = """
import resource, torch
from few_shot.episodes import EpisodeBatch
from few_shot.lit_models import LitMAML
from few_shot.models import Conv4

torch.set_num_threads(1)
lit_model = LitMAML(Conv4((3, 32, 32), 5, width=8), test_inner_loop_steps=5).eval()
y = torch.arange(5).repeat(10, 1)
x = torch.rand(10, 5, 3, 32, 32)

def evaluate(episodes):
    for i in range(episodes // 10):
        lit_model.test_step(EpisodeBatch(x, y, x, y, y[:, 0]), i)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

print(evaluate(10), evaluate(590))
"""


def test_memory_after_600_test_episodes_is_that_after_10():
    """The graph of one batch of ten episodes takes over 10 MiB here, and there are 59 more of them."""
    output = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=300)
    after_10, after_600 = map(int, output.stdout.split())
    assert after_600 - after_10 < 60, "MiB"
