"""Tasks folded into channels: the fast path of a model that is a chain of common layers.

``vmap`` runs any model for T tasks at once. For a chain of convolutions, batch norms and linear layers the same can be
written with fewer and larger operations: T tasks' convolutions are one grouped convolution of T·C channels, batch norm
over T·C channels is exactly each task's own batch norm, and T linear layers are one batched matrix product. On the CPU
maps lie in memory as ``[n, H, W, T*C]`` (channels last), so that every kernel works on neighbouring channels at once.

Three rewrites, each exact, make it faster than the sum of its layers:

- Max-pooling and (leaky) ReLU commute with every increasing function, so convolution, norm, ReLU, pooling is computed
  as convolution, pooling, norm, ReLU, with the statistics of the unpooled maps: the norm has a quarter of the work.
  Where a norm's scale is negative, it and the filter are negated, which makes it increasing and changes nothing else.
- A convolution's bias in front of batch norm is left out, for the norm subtracts it again with the mean.
- Batch norm is x·scale + shift, one operation, once the moments are known.
"""

import functools
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from few_shot.adaptation import Predict
from few_shot.fast_path.second_order import affine, convolution, moments, pooled_moments
from few_shot.inner_optimizers import Weights
from few_shot.layer_errors import misfit
from few_shot.private_parts import is_listened_to

KNOWN = (
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Linear,
    nn.Identity,
)


class Layer(NamedTuple):
    """An operation on all tasks at once."""

    modules: tuple[str, ...]  # whose parameters it reads
    compute: Callable[[Weights, Tensor], Tensor]  # (those parameters [T, ...], activations) -> activations


def folded_predictor(model: nn.Module, layers: list[Layer]) -> Predict:
    """What :func:`few_shot.adaptation.predictor` returns, from the layers that :func:`assemble` found, or some."""
    parameters = {
        f"{module}.{own}": p
        for layer in layers
        for module in layer.modules
        for own, p in model.get_submodule(module).named_parameters(recurse=False)
    }

    def predict(weights: Weights, x: Tensor) -> Tensor:
        tasks = len(next(iter(weights.values()), x))
        shared = {name: p.expand(tasks, *p.shape) for name, p in parameters.items() if name not in weights}
        weights = {**shared, **weights}
        for layer in layers:
            try:
                x = layer.compute(weights, x)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise _misfit(model, layer, x, tasks, error) from error
        return x

    return predict


def _misfit(model: nn.Module, layer: Layer, x: Tensor, tasks: int, error: Exception) -> Exception:
    """The error that names the layer which cannot take ``x``; of folding images, the model's first layer."""
    name = layer.modules[0] if layer.modules else next(iter(model.named_parameters()))[0].rpartition(".")[0]
    module = model.get_submodule(name)
    are_maps = bool(layer.modules) and isinstance(module, nn.Conv2d)
    shape = (x.shape[1] // tasks, *x.shape[2:]) if are_maps else x.shape[2:]
    return misfit(name, module, shape, x.dtype, error)


def split(layers: list[Layer], adapted: Collection[str]) -> tuple[list[Layer], list[Layer]]:
    """The layers before the first that reads one of the ``adapted`` parameters, and the rest."""
    modules = {name.rpartition(".")[0] for name in adapted}
    fixed = next((i for i, layer in enumerate(layers) if not modules.isdisjoint(layer.modules)), len(layers))
    return layers[:fixed], layers[fixed:]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in KNOWN


def _chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers, by name, if each is known and takes what the one before puts out; else nothing.

    Nothing either if two of them share a parameter, or if somebody listens to one, who would not be called.
    """
    if any(map(is_listened_to, model.modules())):
        return []
    in_training, in_evaluation = (_traced(model, training) for training in (True, False))
    if in_training is None or in_evaluation is None or _called(in_training) != _called(in_evaluation):
        return []
    first, *nodes, last = in_training.nodes
    chain = []
    before = first
    for node in nodes:
        if node.op != "call_module" or node.args != (before,) or node.kwargs:
            return []
        chain.append((str(node.target), model.get_submodule(str(node.target))))
        before = node
    named = dict(model.named_parameters())
    if any(f"{name}.{own}" not in named for name, module in chain for own, _ in module.named_parameters()):
        return []
    return chain if last.args == (before,) else []


def _traced(model: nn.Module, training: bool) -> fx.Graph | None:
    """What the model does in training, or in evaluation; the model stays as it is, also if it stores activations.

    None if tracing cannot follow: the forward pass depends on its data, or on random numbers.
    """
    before = {module: dict(vars(module)) for module in model.modules()}
    try:
        for module in before:
            module.training = training
        with _same_random_numbers() as drawn:
            graph = _Tracer().trace(model)
        return None if drawn else graph
    except Exception:
        return None
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)


@contextmanager
def _same_random_numbers() -> Iterator[list[bool]]:
    """The generators are as they were afterwards; what is yielded is then not empty if numbers were drawn."""
    drawn: list[bool] = []
    numpy: Any = np.random.get_state()
    python, torchs = random.getstate(), torch.get_rng_state()
    try:
        yield drawn
    finally:
        now: Any = np.random.get_state()
        of_numpy = np.array_equal(now[1], numpy[1]) and now[2:] == numpy[2:]
        if not (of_numpy and random.getstate() == python and torch.equal(torch.get_rng_state(), torchs)):
            drawn.append(True)
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torchs)


class FastPath:
    """A model's fast path, or none, for as long as the model is the same."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = assemble(model)
        self._structure, self._switches = _structure(model), _switches(model)

    def is_of(self, model: nn.Module) -> bool:
        """Whether no layer was replaced since or got another class, nobody listens to one, and no switch was turned.

        A model without a fast path is not looked at for switches: it may turn some with every call.
        """
        same = self._structure == _structure(model)
        return same and (self.layers is None or self._switches == _switches(model))


def _structure(model: nn.Module) -> tuple:
    return tuple((id(module), type(module), is_listened_to(module)) for module in model.modules())


def _switches(model: nn.Module) -> list[tuple[str, Any]]:
    """The plain values among the attributes of modules that are not PyTorch's own, by their names."""
    found = [
        (name, value)
        for module in model.modules()
        if not _is_pytorchs(type(module).__module__)
        for name, value in vars(module).items()
        if type(value) in (bool, int, float, str)
    ]
    return [switch for switch in found if switch[0] != "training"]


@functools.cache
def _is_pytorchs(module: str) -> bool:
    return module.startswith("torch.nn.")


def _called(graph: fx.Graph) -> list[tuple]:
    """The steps of a graph, to compare."""
    return [(node.op, str(node.target), str(node.args), str(node.kwargs)) for node in graph.nodes]


def assemble(model: nn.Module) -> list[Layer] | None:
    """The model as operations on all tasks at once; None unless it is a chain of layers that have one.

    Features are ``[T, n, f]``; maps are ``[n, T*C, H, W]``.
    """
    chain = [(name, module) for name, module in _chain(model) if not isinstance(module, nn.Identity)]
    layers: list[Layer] = []
    are_maps = False
    while chain:
        (name, module), *chain = chain
        match module:
            case nn.Conv2d(groups=1, padding_mode="zeros", padding=tuple()) if are_maps or not layers:
                if not layers:
                    layers.append(Layer((), _fold))
                are_maps = True
                norm = None
                if chain and isinstance(bn := chain[0][1], nn.BatchNorm2d) and bn.affine and bn.running_mean is None:
                    norm = (chain.pop(0)[0], bn.eps)
                slope = _slope(chain.pop(0)[1]) if chain and _slope(chain[0][1]) is not None else None
                pool = chain.pop(0) if slope is not None and chain and _is_halving(chain[0][1]) else None
                layers.append(_block(name, module, norm, slope, pool is not None))
            case nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)) if are_maps:
                layers.append(Layer((), lambda weights, x: x.mean((2, 3), keepdim=True)))
            case nn.Flatten(start_dim=1, end_dim=-1):
                layers.append(Layer((), _unfold if are_maps else lambda weights, x: x.flatten(2)))
                are_maps = False
            case nn.Linear() if not are_maps:
                layers.append(_linear(name, module))
            case _ if (slope := _slope(module)) is not None:
                layers.append(Layer((), functools.partial(_activate, slope)))
            case _:
                return None
    return layers if layers and not are_maps else None


def _slope(module: nn.Module) -> float | None:
    """A ReLU's slope below zero, from 0 to 1; None for any other module, and for one that does not increase."""
    match module:
        case nn.ReLU():
            return 0.0
        case nn.LeakyReLU(negative_slope=slope) if 0 <= slope <= 1:
            return slope
    return None


def _activate(slope: float, weights: Weights, x: Tensor) -> Tensor:
    return F.leaky_relu(x, slope) if slope else F.relu(x)


def _is_halving(module: nn.Module) -> bool:
    match module:
        case nn.MaxPool2d(kernel_size=2 | (2, 2), stride=2 | (2, 2), padding=0 | (0, 0), dilation=1 | (1, 1)):
            return not (module.ceil_mode or module.return_indices)
    return False


def _fold(weights: Weights, x: Tensor) -> Tensor:
    """``[T, n, C, H, W]`` to ``[n, T*C, H, W]``."""
    if x.device.type != "cpu":
        return x.transpose(0, 1).flatten(1, 2)
    return x.permute(1, 3, 4, 0, 2).flatten(3).contiguous().permute(0, 3, 1, 2)


def _unfold(weights: Weights, x: Tensor) -> Tensor:
    """``[n, T*C, H, W]`` to ``[T, n, C*H*W]``."""
    tasks = len(next(iter(weights.values())))
    return x.unflatten(1, (tasks, -1)).transpose(0, 1).flatten(2)


def _linear(name: str, module: nn.Linear) -> Layer:
    def linear(weights: Weights, x: Tensor) -> Tensor:
        weight, samples = weights[f"{name}.weight"].mT, x.flatten(1, -2)
        if 1 in module.weight.shape and torch.compiler.is_compiling():
            samples = (samples[:, :, None] * weight.mT[:, None]).sum(-1)
            samples = samples if module.bias is None else samples + weights[f"{name}.bias"][:, None]
        elif module.bias is None:
            samples = samples @ weight
        else:
            samples = torch.baddbmm(weights[f"{name}.bias"][:, None], samples, weight)
        return samples.unflatten(1, x.shape[1:-1])

    return Layer((name,), linear)


def _block(name: str, conv: nn.Conv2d, norm: tuple[str, float] | None, slope: float | None, pool: bool) -> Layer:
    """A convolution and what follows it in a block: a batch norm (name and ε), a ReLU (slope below zero), pooling."""
    settings: tuple[Any, Any, Any] = (conv.stride, conv.padding, conv.dilation)

    def block(weights: Weights, x: Tensor) -> Tensor:
        filters = weights[f"{name}.weight"]
        geometry = (*settings, len(filters))
        filters = filters.flatten(0, 1)
        if norm is None:
            bias = None if conv.bias is None else weights[f"{name}.bias"].flatten()
            x = F.conv2d(x, filters, bias, *geometry)
            x = F.max_pool2d(x, 2) if pool else x
        else:
            scale, shift = (weights[f"{norm[0]}.{p}"].flatten() for p in ("weight", "bias"))
            if pool:
                sign = 1 - 2 * (scale.detach() < 0).to(scale)
                filters, scale = filters * sign[:, None, None, None], scale * sign
            x = convolution(x, filters, geometry).to(scale.dtype)  # statistics are exact, autocast or not
            if x.numel() == x.shape[1]:  # as PyTorch's own batch norm has it
                raise RuntimeError("Expected more than 1 value per channel when training")
            x, mean, var = pooled_moments(x) if pool else (x, *moments(x))
            scale = scale * torch.rsqrt(var + norm[1])
            x = affine(x, scale, shift - mean * scale)
        if slope is None:
            return x
        return F.leaky_relu(x, slope, inplace=True) if slope else x.relu_()

    return Layer((name,) if norm is None else (name, norm[0]), block)
