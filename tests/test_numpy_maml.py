"""The gradient by hand is right, and LitMAML's is the same."""

import numpy as np
import pytest
from numpy_maml import compare_with_lit_maml, gradient, hessian_vector_product, loss, outer_gradient

RATE, H = 0.05, 1e-6


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    w = [rng.normal(size=shape) for shape in ((8, 1), (8,), (8, 8), (8,), (1, 8), (1,))]
    tasks = [[rng.normal(size=(n, 1)) for n in (5, 5, 7, 7)] for _ in range(3)]
    return w, [rng.normal(size=part.shape) for part in w], tasks


def along(w, v, h):
    return [part + h * step for part, step in zip(w, v, strict=True)]


def inner(a, b):
    return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))


def test_backward_pass_by_hand_is_a_finite_difference(problem):
    w, v, ((x, y, _, _), *_) = problem
    slope = (loss(along(w, v, H), x, y) - loss(along(w, v, -H), x, y)) / (2 * H)
    assert inner(gradient(w, x, y), v) == pytest.approx(slope, rel=1e-7)


def test_hessian_vector_product_by_hand_is_a_finite_difference(problem):
    w, v, ((x, y, _, _), *_) = problem
    for exact, plus, minus in zip(
        hessian_vector_product(w, x, y, v),
        gradient(along(w, v, H), x, y),
        gradient(along(w, v, -H), x, y),
        strict=True,
    ):
        np.testing.assert_allclose(exact, (plus - minus) / (2 * H), rtol=1e-5, atol=1e-7)


def test_outer_gradient_by_hand_is_a_finite_difference(problem):
    w, v, tasks = problem

    def outer_loss(w):
        fast = [along(w, gradient(w, x, y), -RATE) for x, y, _, _ in tasks]
        return np.mean([loss(f, x, y) for f, (_, _, x, y) in zip(fast, tasks, strict=True)])

    slope = (outer_loss(along(w, v, H)) - outer_loss(along(w, v, -H))) / (2 * H)
    assert inner(outer_gradient(w, tasks, RATE), v) == pytest.approx(slope, rel=1e-6)
    assert inner(outer_gradient(w, tasks, RATE, first_order=True), v) != pytest.approx(slope, rel=1e-3)


def test_lit_mamls_outer_gradient_is_that_by_hand():
    errors = compare_with_lit_maml()
    assert len(errors) == 12
    assert max(error for error, _ in errors.values()) < 1e-8
