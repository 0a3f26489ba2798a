"""Operations whose second derivative is as fast as their first: what the fast path is made of on the CPU.

Autograd differentiates anything twice, but pays for it: its second derivative of a convolution also computes the
gradient of the images, and loops over groups; those of batch norm and max-pooling are many passes over whole maps.
Here the derivatives are written out, in as few passes as PyTorch has kernels for. Each operation comes as a pair,
itself and its gradient; the gradient's own gradient is made of what autograd knows, so third derivatives are right too.

``torch.compile`` drops the second derivative of an autograd ``Function`` without a word, and fuses passes itself;
while compiling, the functions below are their plain PyTorch equivalents. On other devices all but the convolution are.

Names: ``by_x`` is the gradient by ``x``; ``x_`` is the gradient by ``by_x``, which has the shape of ``x``.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

aten = torch.ops.aten

#: stride, padding, dilation and groups
Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]


def convolution(x: Tensor, filters: Tensor, geometry: Geometry) -> Tensor:
    """``F.conv2d`` without a bias."""
    if torch.compiler.is_compiling() or _autocasts(x.device.type):
        return F.conv2d(x, filters, None, *geometry)
    return Convolution.apply(x, filters, geometry)


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Each channel's ``x * scale + shift``, of ``[n, C, H, W]``, ``[C]`` and ``[C]``."""
    if _plain(x):
        return _affine(x, scale, shift)
    return Affine.apply(x, scale, shift)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's mean and variance, ``[C]`` each, of ``[n, C, H, W]``."""
    if _plain(x):
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return mean, var
    return Moments.apply(x)


def pooled_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The maps max-pooled over 2 x 2 pixels, ``[n, C, H // 2, W // 2]``, and their moments before, ``[C]`` each."""
    if _plain(x):
        return F.max_pool2d(x, 2), *moments(x)
    return PooledMoments.apply(x)


def _autocasts(device: str) -> bool:
    """Whether autocast is on; a device that knows none must not be asked."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _plain(x: Tensor) -> bool:
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(_per_channel(shift), x, _per_channel(scale))


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


class Convolution(Function):
    """A convolution of ``x`` and ``filters``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, filters)
        ctx.geometry = geometry
        return F.conv2d(x, filters, None, *geometry)

    @staticmethod
    def backward(ctx: Any, by_y: Tensor) -> Any:  # type: ignore[override]
        by_x, by_filters = ConvolutionGradient.apply(by_y, *ctx.saved_tensors, ctx.geometry, *ctx.needs_input_grad[:2])
        return by_x, by_filters, None


class ConvolutionGradient(Function):
    """Its gradient, as a function of ``by_y``, ``x`` and ``filters``."""

    @staticmethod
    def forward(ctx: Any, by_y: Tensor, x: Tensor, filters: Tensor, geometry: Geometry, *needed: bool) -> Any:
        ctx.save_for_backward(by_y, x, filters)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return _convolution_gradient(by_y, x, filters, geometry, *needed)

    @staticmethod
    def backward(ctx: Any, x_: Tensor | None, filters_: Tensor | None) -> Any:  # type: ignore[override]
        """A convolution is linear in the images and in the filters; ``x_``, ``filters_`` stand in for either."""
        by_y, x, filters = ctx.saved_tensors
        by_by_y = by_x = by_filters = None
        if x_ is not None:
            by_by_y = F.conv2d(x_, filters, None, *ctx.geometry)
            by_filters = _convolution_gradient(by_y, x_, filters, ctx.geometry, False, True)[1]
        if filters_ is not None:
            y_ = F.conv2d(x, filters_, None, *ctx.geometry)
            by_by_y = y_ if by_by_y is None else by_by_y.add_(y_)
            by_x = _convolution_gradient(by_y, x, filters_, ctx.geometry, ctx.needs_input_grad[1], False)[0]
        return by_by_y, by_x, by_filters, None, None, None


def _convolution_gradient(
    by_y: Tensor, x: Tensor, filters: Tensor, geometry: Geometry, by_x: bool, by_filters: bool
) -> tuple[Tensor | None, Tensor | None]:
    *window, groups = geometry
    mask = [by_x, by_filters, False]
    found = aten.convolution_backward(by_y, x, filters, None, *window, False, [0, 0], groups, mask)
    return found[0], found[1]


class Affine(Function):
    """Each channel's own affine map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return _affine(x, scale, shift)

    @staticmethod
    def backward(ctx: Any, by_y: Tensor) -> Any:  # type: ignore[override]
        return AffineGradient.apply(by_y, *ctx.saved_tensors)


class AffineGradient(Function):
    """Its gradient, as a function of ``by_y``, ``x`` and ``scale``."""

    @staticmethod
    def forward(ctx: Any, by_y: Tensor, x: Tensor, scale: Tensor) -> Any:
        ctx.save_for_backward(by_y, x, scale)
        return _affine_gradient(by_y, x, scale)

    @staticmethod
    def backward(ctx: Any, x_: Tensor, scale_: Tensor, shift_: Tensor) -> Any:  # type: ignore[override]
        by_y, x, scale = ctx.saved_tensors
        by_by_y = _affine(x, scale_, shift_).addcmul_(x_, _per_channel(scale))
        by_x, by_scale, _ = _affine_gradient(by_y, x_, scale_)
        return by_by_y, by_x, by_scale


def _affine_gradient(by_y: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient by x, scale and shift, in two passes: an affine map is batch norm by moments 0 and 1."""
    zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
    return aten.native_batch_norm_backward(by_y, x, scale, zeros, ones, None, None, False, 0.0, [True, True, True])


#: How many samples, and channels, PyTorch's kernel gets at once: the fewer samples, the less rounding adds up.
_SAMPLES, _CHANNELS = 1000, 1024


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, ``[C]`` each, to 1e-6 in float32.

    PyTorch's kernel for channels last adds up one sample after the other. Over the half million of a mini-ImageNet
    query set that is off by 4e-4. So it gets a few images at once, and pixels side by side as channels of their own. Of
    pieces of equal size, the mean is the mean of means, and the variance is the mean of variances plus the variance of
    means (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance").
    """
    n, channels, height, width = x.shape
    images, side_by_side = _piece(n, channels, height, width)
    pixels = x.permute(0, 2, 3, 1).reshape(n, -1, side_by_side * channels).mT[..., None]  # no copy of channels last
    pieces = [torch.batch_norm_update_stats(piece, None, None, 0.0) for piece in pixels.split(images)]
    if len(pieces) == side_by_side == 1:
        return pieces[0]
    means, variances = (torch.cat(of_each).view(-1, channels) for of_each in zip(*pieces, strict=True))
    of_means, mean = torch.var_mean(means, 0, correction=0)
    return mean, variances.mean(0).add_(of_means)


@functools.cache
def _piece(n: int, channels: int, height: int, width: int) -> tuple[int, int]:
    """How many images a piece has, which divides n, and how many pixels side by side, which divides the width."""
    side_by_side = _divisor(width, _CHANNELS // channels)
    return _divisor(n, _SAMPLES * side_by_side // (height * width)), side_by_side


def _divisor(of: int, at_most: int) -> int:
    return max((d for d in range(1, min(of, at_most) + 1) if of % d == 0), default=1)


class Moments(Function):
    """Mean and variance in one pass; their gradient is an affine map of ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = _statistics(x)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, by_mean: Tensor, by_var: Tensor) -> Tensor:  # type: ignore[override]
        x, mean = ctx.saved_tensors
        return affine(x, *_moments_gradient(x, mean, by_mean, by_var))


def _moments_gradient(x: Tensor, mean: Tensor, by_mean: Tensor, by_var: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and shift that make x its moments' gradient."""
    samples = x.numel() // x.shape[1]
    scale = 2 / samples * by_var
    return scale, by_mean / samples - scale * mean


class PooledMoments(Function):
    """Max-pooling and the moments of what it pools."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _statistics(x)
        pooled, winners = F.max_pool2d(x, 2, return_indices=True)
        ctx.save_for_backward(x, mean, winners)
        return pooled, mean, var

    @staticmethod
    def backward(ctx: Any, by_pooled: Tensor, by_mean: Tensor, by_var: Tensor) -> Tensor:  # type: ignore[override]
        x, mean, winners = ctx.saved_tensors
        return PooledMomentsGradient.apply(by_pooled, x, *_moments_gradient(x, mean, by_mean, by_var), winners)


class PooledMomentsGradient(Function):
    """Their gradient: the moments' affine map, and on top of it the pooled maps' at their maxima."""

    @staticmethod
    def forward(ctx: Any, by_pooled: Tensor, x: Tensor, scale: Tensor, shift: Tensor, winners: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, winners)
        by_x = _affine(x, scale, shift)
        pixels = by_x.permute(0, 2, 3, 1).view(len(x), -1, x.shape[1])  # never a copy
        pixels.scatter_add_(1, _pixels(winners), _pixels(by_pooled))
        return by_x

    @staticmethod
    def backward(ctx: Any, x_: Tensor) -> Any:  # type: ignore[override]
        x, scale, winners = ctx.saved_tensors
        by_by_pooled = _pixels(x_).gather(1, _pixels(winners))
        by_x, by_scale, by_shift = _affine_gradient(x_, x, scale)
        return by_by_pooled.unflatten(1, winners.shape[2:]).permute(0, 3, 1, 2), by_x, by_scale, by_shift, None


def _pixels(x: Tensor) -> Tensor:
    """``[n, C, H, W]`` as ``[n, H*W, C]``."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
