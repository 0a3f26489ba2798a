"""Tasks folded into channels: the fast path of a model that is a chain of common layers.

``vmap`` runs any model for T tasks at once. For a chain of convolutions, batch norms and linear layers the same can be
written with fewer and larger operations: T tasks' convolutions are one grouped convolution of T·C channels, batch norm
over T·C channels is exactly each task's own batch norm, and T linear layers are one batched matrix product. On the CPU
maps lie in memory as ``[n, H, W, T*C]`` (channels last), so that every kernel works on neighbouring channels at once.

Four rewrites, each exact, make it faster than the sum of its layers:

- Max-pooling and ReLU commute with every increasing function, so convolution, norm, ReLU, pooling is computed as
  convolution, pooling, norm, ReLU, with the statistics of the unpooled maps: the norm has a quarter of the work. Where
  a norm's scale is negative, it and the filter are negated, which makes it increasing and changes nothing else.
- A convolution's bias in front of batch norm is left out, for the norm subtracts it again with the mean.
- Batch norm is one multiplication and one addition per element, x·scale + shift (:class:`Moments` gives both).
- :class:`Convolve` differentiates twice through three ordinary convolution kernels.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd import Function
from torch.nn.grad import conv2d_input, conv2d_weight

from few_shot.adaptation import Predict
from few_shot.inner_optimizers import Weights

#: (every parameter [T, ...], activations) -> activations
Layer = Callable[[Weights, Tensor], Tensor]
#: stride, padding, dilation, groups
Geometry = tuple[Any, Any, Any, int]

KNOWN = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.Identity)


#: What each model was found to be.
_assembled: WeakKeyDictionary[nn.Module, list[Layer] | None] = WeakKeyDictionary()


def folded_predictor(model: nn.Module) -> Predict | None:
    """What :func:`few_shot.adaptation.predictor` returns, faster; None unless the model is a chain of known layers."""
    if model not in _assembled:
        _assembled[model] = _assemble(_chain(model))
    layers = _assembled[model]
    if layers is None:
        return None

    def predict(weights: Weights, x: Tensor) -> Tensor:
        shared = {n: p.expand(len(x), *p.shape) for n, p in model.named_parameters() if n not in weights}
        weights = {**shared, **weights}
        for layer in layers:
            x = layer(weights, x)
        return x

    return predict


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in KNOWN


def _chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers, by name, if each is known and takes what the one before puts out; else nothing."""
    try:
        graph = _Tracer().trace(model)
    except Exception:  # the forward pass depends on its data, or on what else tracing cannot follow
        return []
    first, *nodes, last = graph.nodes
    chain = []
    before = first
    for node in nodes:
        if node.op != "call_module" or node.args != (before,) or node.kwargs:
            return []
        chain.append((str(node.target), model.get_submodule(str(node.target))))
        before = node
    return chain if last.args == (before,) else []


def _assemble(chain: list[tuple[str, nn.Module]]) -> list[Layer] | None:
    """The chain as operations on all tasks; None if a layer is used in a way that has none.

    Features are ``[T, n, f]``; maps are ``[n, T*C, H, W]``.
    """
    chain = [(name, module) for name, module in chain if not isinstance(module, nn.Identity)]
    layers: list[Layer] = []
    are_maps = False
    while chain:
        (name, module), *chain = chain
        match module:
            case nn.Conv2d(groups=1, padding_mode="zeros", padding=tuple()) if are_maps or not layers:
                if not layers:
                    layers.append(_fold)
                are_maps = True
                norm = chain.pop(0) if chain and _is_batch_norm(chain[0][1]) else None
                relu = chain.pop(0) if chain and isinstance(chain[0][1], nn.ReLU) else None
                pool = chain.pop(0) if relu and chain and _is_halving(chain[0][1]) else None
                layers.append(_convolution(name, module, norm, relu is not None, pool is not None))
            case nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)) if are_maps:
                layers.append(lambda weights, x: x.mean((2, 3), keepdim=True))
            case nn.Flatten(start_dim=1, end_dim=-1):
                layers.append(_unfold if are_maps else lambda weights, x: x.flatten(2))
                are_maps = False
            case nn.Linear() if not are_maps:
                layers.append(_linear(name, module))
            case nn.ReLU():
                layers.append(lambda weights, x: F.relu(x))
            case _:
                return None
    return layers if layers and not are_maps else None


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.affine and module.running_mean is None


def _is_halving(module: nn.Module) -> bool:
    match module:
        case nn.MaxPool2d(kernel_size=2 | (2, 2), stride=2 | (2, 2), padding=0 | (0, 0), dilation=1 | (1, 1)):
            return not (module.ceil_mode or module.return_indices)
    return False


def _fold(weights: Weights, x: Tensor) -> Tensor:
    """``[T, n, C, H, W]`` to ``[n, T*C, H, W]``."""
    if x.device.type != "cpu":
        return x.transpose(0, 1).flatten(1, 2)
    return x.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2)


def _unfold(weights: Weights, x: Tensor) -> Tensor:
    """``[n, T*C, H, W]`` to ``[T, n, C*H*W]``."""
    tasks = len(next(iter(weights.values())))
    return x.unflatten(1, (tasks, -1)).transpose(0, 1).flatten(2)


def _linear(name: str, module: nn.Linear) -> Layer:
    def linear(weights: Weights, x: Tensor) -> Tensor:
        weight, samples = weights[f"{name}.weight"].mT, x.flatten(1, -2)
        if module.bias is None:
            samples = samples @ weight
        else:
            samples = torch.baddbmm(weights[f"{name}.bias"][:, None], samples, weight)
        return samples.unflatten(1, x.shape[1:-1])

    return linear


def _convolution(name: str, conv: nn.Conv2d, norm: tuple[str, nn.Module] | None, relu: bool, pool: bool) -> Layer:
    """Convolution and what follows it in a block."""

    def convolution(weights: Weights, x: Tensor) -> Tensor:
        filters = weights[f"{name}.weight"]
        geometry = (conv.stride, conv.padding, conv.dilation, len(filters))
        filters = filters.flatten(0, 1)
        if norm is None:
            x = convolve(x, filters, geometry)
            if conv.bias is not None:
                x = x + weights[f"{name}.bias"].flatten()[:, None, None]
            x = F.max_pool2d(x, 2) if pool else x
        else:
            scale, shift = (weights[f"{norm[0]}.{p}"].flatten() for p in ("weight", "bias"))
            if pool:
                sign = 1 - 2 * (scale.detach() < 0).to(scale)
                filters, scale = filters * sign[:, None, None, None], scale * sign
            x = convolve(x, filters, geometry)
            mean, var = Moments.apply(x)
            scale = scale * torch.rsqrt(var + norm[1].eps)
            shift = shift - mean * scale
            x = F.max_pool2d(x, 2) if pool else x
            x = torch.addcmul(shift[:, None, None], x, scale[:, None, None])
        return x.relu_() if relu else x

    return convolution


class Moments(Function):
    """Each channel's mean and variance, ``[C]`` each, of ``[n, C, H, W]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.device.type == "cpu":  # the same numbers, and many times as fast as var_mean there
            mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        else:
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, by_mean: Tensor, by_var: Tensor) -> Tensor:  # type: ignore[override]
        x, mean = ctx.saved_tensors
        samples = x.numel() // x.shape[1]
        slope = 2 / samples * by_var
        constant = by_mean / samples - slope * mean
        return torch.addcmul(constant[:, None, None], x, slope[:, None, None])


def convolve(x: Tensor, filters: Tensor, geometry: Geometry) -> Tensor:
    """A convolution, in autocast's number format where that is on."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return Convolve.apply(x, filters, geometry)
    low = torch.get_autocast_dtype(device)
    return Convolve.apply(x.to(low), filters.to(low), geometry).to(filters.dtype)


class Convolve(Function):
    """A convolution whose derivatives of every order are ordinary convolution kernels.

    A convolution is linear in its input and in its filters, and so are its two derivatives in what they take; the
    derivatives of the three are the three themselves. (PyTorch's own second derivative with respect to the filters
    convolves with the gradient's map as a filter, as large as the image.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, filters)
        ctx.geometry = geometry
        return F.conv2d(x, filters, None, *geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x, filters = ctx.saved_tensors
        by_x, by_filters, _ = ctx.needs_input_grad
        return (
            ConvolveInput.apply(g, filters, x.shape, ctx.geometry) if by_x else None,
            ConvolveFilters.apply(g, x, filters.shape, ctx.geometry) if by_filters else None,
            None,
        )


class ConvolveInput(Function):
    """The gradient with respect to a convolution's input: linear in the gradient ``g`` and in the filters."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, filters: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, filters)
        ctx.geometry = geometry
        return conv2d_input(shape, filters, g, *geometry)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:  # type: ignore[override]
        g, filters = ctx.saved_tensors
        by_g, by_filters, *_ = ctx.needs_input_grad
        return (
            Convolve.apply(v, filters, ctx.geometry) if by_g else None,
            ConvolveFilters.apply(g, v, filters.shape, ctx.geometry) if by_filters else None,
            None,
            None,
        )


class ConvolveFilters(Function):
    """The gradient with respect to a convolution's filters: linear in the gradient ``g`` and in the input."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.geometry = geometry
        return conv2d_weight(x, shape, g, *geometry)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:  # type: ignore[override]
        g, x = ctx.saved_tensors
        by_g, by_x, *_ = ctx.needs_input_grad
        return (
            Convolve.apply(x, v, ctx.geometry) if by_g else None,
            ConvolveInput.apply(g, v, x.shape, ctx.geometry) if by_x else None,
            None,
            None,
        )
