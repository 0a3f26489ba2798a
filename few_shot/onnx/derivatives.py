"""Derivatives written as operations that ONNX has."""

import torch
from torch.export import default_decompositions

aten = torch.ops.aten


def _convolution_backward(
    gradient, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, wanted
):
    """By x a transposed convolution, by the weight a convolution of x with the gradient, samples as channels."""
    if transposed or groups > 1:
        raise NotImplementedError("a convolution that is transposed or in groups has no gradient here.")
    by_x = by_weight = by_bias = None
    over = range(x.dim() - 2)
    if wanted[0]:
        covered = [
            (gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1
            for i in over
        ]
        rest = [x.shape[2 + i] - covered[i] for i in over]  # rows at the end that the last stride does not reach
        by_x = aten.convolution(gradient, weight, None, stride, padding, dilation, True, rest, 1)
    if wanted[1]:
        zeros = [0] * len(over)
        by_weight = aten.convolution(
            x.transpose(0, 1), gradient.transpose(0, 1), None, dilation, padding, stride, False, zeros, 1
        )
        for i in over:
            by_weight = by_weight.narrow(2 + i, 0, weight.shape[2 + i])
        by_weight = by_weight.transpose(0, 1)
    if wanted[2]:
        by_bias = gradient.sum([0, *range(2, x.dim())])
    return by_x, by_weight, by_bias


def _max_pool_backward(gradient, x, kernel_size, stride, padding, dilation, ceil_mode, indices):
    """Each gradient goes to where its window's largest value is; ``indices`` are places in a flattened channel."""
    return torch.zeros_like(x).flatten(2).scatter_add(2, indices.flatten(2), gradient.flatten(2)).view(x.shape)


def _select_backward(gradient, sizes, dim, index):
    """Zeros but for one row. Our one task is the only row of its kind, so that there are none."""
    if sizes[dim] == 1:
        return gradient.unsqueeze(dim)
    return gradient.new_zeros(sizes).select_scatter(gradient, dim, index)


#: PyTorch's own decompositions, and those of derivatives that ONNX has no operation for.
DECOMPOSITIONS = {
    **default_decompositions(),
    aten.convolution_backward.default: _convolution_backward,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
    aten.select_backward.default: _select_backward,
}
