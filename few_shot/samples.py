"""What a person gives a learner, as the tensors that it computes with: inputs of any kind, and labels of any kind."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from few_shot.data.pictures import CHANNELS, Preprocessing, check_preprocessing, preprocessing, read_pictures
from few_shot.errors import BadInput
from few_shot.files import shortened
from few_shot.limits import COUNT


class Inputs:
    """Turns what a person gives into a model's inputs.

    Args:
        shape: of one input, such as ``(3, 84, 84)``; None if it is not known.
        how: how pictures were prepared for the training; None if nothing is known of it.
        of_symbols: whether whole numbers stay such, for a model that looks them up in a table.

    Raises:
        BadInput: the checkpoint that they come from is damaged.
    """

    def __init__(self, shape: Sequence[int] | None, how: Preprocessing | None, of_symbols: bool = False) -> None:
        self.of_symbols = of_symbols
        self.scaled = how is not None  # the training's pictures were, from 0 to 1
        self.shape = None if shape is None else tuple(shape)
        if self.shape is not None and not all(type(n) is int and 0 < n <= COUNT for n in self.shape):
            raise BadInput(f"Inputs cannot have the shape {shortened(shape)}: what the checkpoint says is damaged.")
        if how is None and self.shape is not None and len(self.shape) == 3 and self.shape[0] in CHANNELS:
            how = preprocessing(self.shape, crop="center")
        self.how = None if how is None else check_preprocessing(how)

    def tensor(self, x: Any, like: Tensor) -> Tensor:
        """Inputs ``[n, ...]`` of the number type and on the device of ``like``.

        Args:
            x: numbers as a tensor, an array or lists, ``[n, ...]``, already as the model takes them; or pictures, one
                or many: paths, PIL images, arrays or tensors.

        Raises:
            BadInput: something cannot be read, or has another shape than the model takes.
        """
        if self._is_prepared(x):
            prepared = torch.stack(list(map(torch.as_tensor, x))) if isinstance(x, list | tuple) else torch.as_tensor(x)
            if self.scaled and prepared.numel() > 0 and (prepared.min() < 0 or prepared.max() > 1):
                raise BadInput(
                    "The pictures have floating point values outside 0 to 1: divide them by the largest there can be, "
                    "or give whole numbers (uint8) from 0 to 255."
                )
            return prepared.to(like.device, like.dtype)
        if self._are_pictures(x):
            if self.how is None:
                raise BadInput(
                    "The learner does not know how large its pictures are: fit it first, use a model of "
                    "few_shot.models, or give tensors [n, C, H, W] with values from 0 to 1."
                )
            return torch.from_numpy(read_pictures(x, self.how)).to(like.device, like.dtype) / self.how["scale"]
        return self._numbers(x, like)

    def _is_prepared(self, x: Any) -> bool:
        """Whether it is what a data module's batches hold."""
        if isinstance(x, list | tuple) and x and self.shape is not None:
            return all(isinstance(one, np.ndarray | Tensor) and self._is_prepared(one[None]) for one in x)
        if isinstance(x, np.ndarray):
            return np.issubdtype(x.dtype, np.floating) and self.shape is not None and x.shape[1:] == self.shape
        is_float = isinstance(x, Tensor) and x.is_floating_point()
        return is_float and (self.shape is None or tuple(x.shape[1:]) == self.shape)

    def _are_pictures(self, x: Any) -> bool:
        some = isinstance(x, list | tuple) or (isinstance(x, np.ndarray) and x.ndim > 0)
        first = x[0] if some and len(x) > 0 else x
        return self.how is not None or isinstance(first, str | os.PathLike | Image.Image)

    def _numbers(self, x: Any, like: Tensor) -> Tensor:
        x = list(x) if isinstance(x, Iterator) else x
        try:
            numbers = torch.as_tensor(np.asarray(x) if not isinstance(x, Tensor) else x).to(like.device)
            numbers = numbers.long() if self.of_symbols and not numbers.is_floating_point() else numbers.to(like.dtype)
        except (TypeError, ValueError) as error:
            raise BadInput(f"The inputs are no numbers [n, ...] ({error}).") from error
        if self.shape == (1,) and numbers.dim() == 1:
            numbers = numbers[:, None]
        if self.shape is not None and tuple(numbers.shape[1:]) != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise BadInput(f"The inputs have the shape {list(numbers.shape)}: the model takes [n, {wanted}].")
        return numbers


def takes_symbols(model: nn.Module) -> bool:
    """Whether a model looks its inputs up in a table, such as words."""
    return any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())


def input_shape_of(model: nn.Module) -> tuple[int, ...] | None:
    """The shape of one input, of a model that remembers what it was built for."""
    shape = getattr(model, "constructor_arguments", {}).get("input_shape")
    return None if shape is None else tuple(shape)


def encode(y: Any, of_classes: bool | None) -> tuple[NDArray | None, Tensor]:
    """Labels of any kind as numbers from 0, or targets as they are.

    Args:
        y: one label for each input: strings, numbers or whatever sorts; or regression targets, ``[n]`` or ``[n, d]``.
        of_classes: whether they are labels; None leaves it to their type: floating point numbers are targets.

    Returns:
        The classes in sorted order, or None for targets; and labels ``[n]`` or targets ``[n, d]``.

    Raises:
        BadInput: they are neither.
    """
    try:
        y = y.detach().cpu() if isinstance(y, Tensor) else y
        values = np.asarray(y.double() if isinstance(y, Tensor) and y.is_floating_point() else y)
    except (TypeError, ValueError) as error:
        raise BadInput(f"The labels y are no list of labels ({error}): give one for each input, [n].") from error
    if values.dtype.kind == "U" and isinstance(y, list | tuple) and not all(isinstance(label, str) for label in y):
        raise BadInput("The labels y are partly text and partly not: give labels of one kind.")
    if values.ndim == 0:
        raise BadInput(f"There is one label y, {values}, and no list of them: give one for each input, [n].")
    is_float = np.issubdtype(values.dtype, np.floating)
    if is_float and not np.isfinite(values).all():
        raise BadInput("Some of the labels y are NaN or infinite: leave those samples out.")
    if of_classes is None:
        of_classes = not is_float
    if not of_classes:
        try:
            targets = torch.as_tensor(values.astype(np.float64))
        except (TypeError, ValueError):
            raise BadInput("The targets y must be numbers: this learner does regression.") from None
        return None, targets if targets.dim() > 1 else targets[:, None]
    if values.ndim != 1:
        raise BadInput(f"The labels y have the shape {values.shape}: give one label for each input, [n].")
    try:
        classes, numbers = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise BadInput(f"The labels y cannot be sorted ({error}): give labels of one kind.") from error
    return classes, torch.from_numpy(numbers.astype(np.int64))
