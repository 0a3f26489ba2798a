"""What a compiler does not see in small matrix products on the CPU: a pass over its graph.

Two rewrites of batched products ``[T, n, k] @ [T, k, m]``, exact but for the order of sums:

- Autograd's gradient of ``x @ w.mT`` by ``w`` is a product and its transposition, which all that follows would have to
  read across memory. By (a b)ᵀ = bᵀ aᵀ it is computed in order.
- With few k (the samples of a support set) a product is little more than a pass over its result. Written as a sum of
  outer products, instead of a call of BLAS, it is fused with what comes next, a gradient step or a sum over tasks.
"""

from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten

#: The most k that count as few.
FEW = 16


def rewrite(graph: Graph) -> None:
    """The pass."""
    for node in _calls(graph, aten.permute.default):
        product, order = node.args
        if product.target is aten.bmm.default and len(product.users) == 1 and order == [0, 2, 1]:
            a, b = product.args
            with graph.inserting_before(node):
                transposed = [_call(aten.permute.default, factor, order) for factor in (b, a)]
                node.replace_all_uses_with(_call(aten.bmm.default, *transposed))
    for node in _calls(graph, aten.bmm.default):
        a, b = node.args
        if a.meta["val"].shape[2] <= FEW:
            with graph.inserting_before(node):
                columns, rows = _call(aten.unsqueeze.default, a, 3), _call(aten.unsqueeze.default, b, 1)
                node.replace_all_uses_with(_call(aten.sum.dim_IntList, _call(aten.mul.Tensor, columns, rows), [2]))
    graph.eliminate_dead_code()


def _calls(graph: Graph, target: Any) -> list[Any]:
    return list(graph.find_nodes(op="call_function", target=target))


def _call(target: Any, first: Node, *others: Any) -> Node:
    """A new node of first's graph, with the tensor (without data) that it stands for."""
    arguments = (first, *others)
    node = first.graph.call_function(target, arguments)
    node.meta["val"] = target(*(a.meta["val"] if isinstance(a, Node) else a for a in arguments))
    return node
