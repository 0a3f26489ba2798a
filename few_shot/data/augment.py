"""Augmentation of a batch of images at once, on their device."""

import torch
from torch import Tensor

from few_shot.episodes import AUGMENT_STREAM, uniform


def crop_and_flip(images: tuple[Tensor, ...], seed: int, index: Tensor) -> tuple[Tensor, ...]:
    """Shift every image by up to a tenth of its size (reflecting the border) and mirror every other one, at random.

    Like the episode itself, its augmentation is a pure function of the seed and the episode's index.

    Args:
        images: tensors ``[T, n, C, H, W]`` of the same T episodes.
        seed: the seed of the training episodes.
        index: the episodes' numbers, ``[T]``.
    """
    total = sum(x.shape[1] for x in images)
    draws = torch.from_numpy(uniform(seed, "train", index.cpu().numpy(), AUGMENT_STREAM, 3 * total))
    draws = draws.reshape(len(index), total, 3).to(index.device)
    return tuple(
        _crop_and_flip(x.flatten(0, 1), d.flatten(0, 1)).reshape(x.shape)
        for x, d in zip(images, draws.split([x.shape[1] for x in images], dim=1), strict=True)
    )


def _crop_and_flip(x: Tensor, draws: Tensor) -> Tensor:
    """``x`` ``[B, C, H, W]``; ``draws`` ``[B, 3]`` in (0, 1): vertical shift, horizontal shift, mirror."""
    height, width = x.shape[-2:]
    rows = _shifted(height, draws[:, 0])
    columns = _shifted(width, draws[:, 1])
    columns = torch.where(draws[:, 2:] < 0.5, columns, columns.flip(1))
    batch = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return x[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _shifted(size: int, draw: Tensor) -> Tensor:
    """Pixel numbers ``[B, size]`` moved by -size//10 … size//10 and reflected at the border."""
    reach = size // 10
    shift = (draw * (2 * reach + 1)).long() - reach
    moved = (torch.arange(size, device=draw.device) + shift[:, None]).abs()
    return torch.where(moved < size, moved, 2 * (size - 1) - moved)
