"""One step in everybody's hands: a function of a problem that returns the step, a function without arguments.

A training step is the mean query loss of the tasks and its gradient, left in ``.grad``; no outer optimiser. It returns
the gradients in the order of the model's parameters. A test step returns the episodes' query losses. The peers are
used as their documentation and examples use them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from benchmarks.workloads import Problem
from few_shot.lit_models.chunks import chunks

Step = Callable[[], Any]


def ours(problem: Problem) -> Step:
    """What a run of this project does."""
    lit_model, batch = problem.lit_model, problem.batch

    def train() -> list[Tensor]:
        problem.zero_grad()
        for chunk in chunks(batch, lit_model.tasks_at_once):
            loss = lit_model.training_scores(chunk).loss
            loss.backward(torch.full_like(loss, 1 / len(batch.index)))
        return problem.gradients()

    def test() -> list[Tensor]:
        return list(lit_model.step_scores(batch, [problem.steps])[-1].loss)

    return test if problem.test else train


def plain_loop(problem: Problem) -> Step:
    """The textbook: task after task, ``functional_call`` and ``autograd.grad``."""
    model, loss, lr = problem.model, problem.loss, problem.inner_lr
    second_order = not (problem.first_order or problem.test)

    def query_losses():
        for support_x, support_y, query_x, query_y in problem.tasks():
            weights: dict[str, Tensor] = dict(model.named_parameters())
            for _ in range(problem.steps):
                support_loss = loss(functional_call(model, weights, (support_x,)), support_y)
                gradients = torch.autograd.grad(support_loss, list(weights.values()), create_graph=second_order)
                weights = {name: w - lr * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
            with torch.set_grad_enabled(not problem.test):
                query_loss = loss(functional_call(model, weights, (query_x,)), query_y)
            yield query_loss

    return _task_by_task(problem, query_losses)


def learn2learn(problem: Problem) -> Step:
    """As in learn2learn's examples; in the test first order, as the second is of no use there."""
    import learn2learn as l2l

    maml = l2l.algorithms.MAML(problem.model, lr=problem.inner_lr, first_order=problem.first_order or problem.test)

    def query_losses():
        for support_x, support_y, query_x, query_y in problem.tasks():
            learner = maml.clone()
            for _ in range(problem.steps):
                learner.adapt(problem.loss(learner(support_x), support_y))
            with torch.set_grad_enabled(not problem.test):
                query_loss = problem.loss(learner(query_x), query_y)
            yield query_loss

    return _task_by_task(problem, query_losses)


def higher(problem: Problem) -> Step:
    """As in higher's examples; first order is its ``track_higher_grads=False``."""
    import higher

    model, loss = problem.model, problem.loss
    optimizer = torch.optim.SGD(model.parameters(), lr=problem.inner_lr)
    track = not (problem.first_order or problem.test)

    def query_losses():
        for support_x, support_y, query_x, query_y in problem.tasks():
            with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False, track_higher_grads=track) as (
                functional,
                inner,
            ):
                for _ in range(problem.steps):
                    inner.step(loss(functional(support_x), support_y))
                with torch.set_grad_enabled(not problem.test):
                    query_loss = loss(functional(query_x), query_y)
                if not (track or problem.test):  # the way back to the initial weights is cut
                    fast = list(functional.parameters())
                    gradients = torch.autograd.grad(query_loss, fast)
                    pairs = zip(model.parameters(), gradients, strict=True)
                    query_loss = torch.stack([(p * g).sum() for p, g in pairs]).sum()
                yield query_loss

    return _task_by_task(problem, query_losses)


def jax_jit(problem: Problem) -> Step:
    """The sinusoid's MLP and MAML in plain jax.numpy, ``vmap`` over tasks, ``grad``, ``jit``."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)  # only makes float64 possible; float32 stays float32
    if jax.default_backend() != problem.batch.support_x.device.type.replace("cuda", "gpu"):
        raise RuntimeError(f"this JAX computes on the {jax.default_backend()} only")

    def predict(weights, x):
        *hidden, (last, bias) = weights
        for w, b in hidden:
            x = jax.nn.relu(x @ w.T + b)
        return x @ last.T + bias

    def mse(weights, x, y):
        return jnp.mean((predict(weights, x) - y) ** 2)

    def query_loss(weights, support_x, support_y, query_x, query_y):
        for _ in range(problem.steps):
            gradients = jax.grad(mse)(weights, support_x, support_y)
            weights = jax.tree.map(lambda w, g: w - problem.inner_lr * g, weights, gradients)
        return mse(weights, query_x, query_y)

    @jax.jit
    @jax.grad
    def meta_gradient(weights, batch):
        return jnp.mean(jax.vmap(query_loss, in_axes=(None, 0, 0, 0, 0))(weights, *batch))

    arrays = [jnp.asarray(p.detach().cpu().numpy()) for p in problem.model.parameters()]
    weights = list(zip(arrays[::2], arrays[1::2], strict=True))
    batch = [jnp.asarray(x.cpu().numpy()) for x in problem.batch[:4]]
    return lambda: jax.block_until_ready(jax.tree.leaves(meta_gradient(weights, batch)))


def _task_by_task(problem: Problem, query_losses: Callable) -> Step:
    """Task after task: each query loss's gradient is added to ``.grad`` before the next task begins."""

    def train() -> list[Tensor]:
        problem.zero_grad()
        for loss in query_losses():
            (loss / len(problem.batch.index)).backward()
        return problem.gradients()

    return (lambda: list(query_losses())) if problem.test else train
