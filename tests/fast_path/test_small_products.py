"""The pass over the compiler's graph: another graph, the same numbers."""

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from few_shot.fast_path.small_products import FEW, rewrite

aten = torch.ops.aten


def step(x: Tensor, weight: Tensor) -> Tensor:
    """A gradient step on weights ``[T, m, k]`` of batched linear layers."""
    weight = weight.detach().requires_grad_()
    return weight - 0.1 * torch.autograd.grad((x @ weight.mT).square().sum(), weight)[0]


def double(x: Tensor, weight: Tensor) -> Tensor:
    """A product that is wanted as it is, and transposed."""
    product = x @ weight.mT
    return product.mT @ product


def of(graph, target) -> int:
    return len(graph.find_nodes(op="call_function", target=target))


@pytest.mark.parametrize("samples, products", [(FEW, 1), (FEW + 1, 2)])
def test_gradient_is_in_the_order_of_its_weight_and_a_sum_where_samples_are_few(samples, products):
    x, weight = torch.randn(3, samples, 20), torch.randn(3, 30, 20)
    traced = make_fx(step, tracing_mode="fake")(x, weight)
    assert of(traced.graph, aten.bmm.default) == 2
    rewrite(traced.graph)
    traced.recompile()
    assert of(traced.graph, aten.bmm.default) == products
    assert traced.graph.output_node().args[0].meta["val"].is_contiguous()
    torch.testing.assert_close(traced(x, weight), step(x, weight))


def test_product_that_is_also_wanted_as_it_is_stays():
    x, weight = torch.randn(3, 20, 20), torch.randn(3, 20, 20)
    traced = make_fx(double, tracing_mode="fake")(x, weight)
    before = traced.code
    rewrite(traced.graph)
    assert traced.recompile() and traced.code == before
