"""Augmentation of a batch of images at once, on their device."""

import torch
from torch import Tensor

from few_shot.episodes import AUGMENT_STREAM, uniform

#: The weights of red, green and blue in a grey value (ITU-R 601, as in torchvision).
LUMA = (0.2989, 0.587, 0.114)
#: Brightness, contrast and saturation are scaled by 1 ± this.
JITTER = 0.4


def augment(images: tuple[Tensor, ...], seed: int, index: Tensor) -> tuple[Tensor, ...]:
    """Shift every image by up to a tenth of its size (reflecting the border), mirror it or not, and jitter its colours.

    Every image has its own draws, support and query alike. A change shared by the whole task would be undone by batch
    norm. The draws are a pure function of the seed and the episode's index, as the episode is.

    Args:
        images: tensors ``[T, n, C, H, W]`` in [0, 1], of the same T episodes.
        seed: the seed of the training episodes.
        index: the episodes' numbers, ``[T]``; on the host, or a GPU would have to wait for them.
    """
    total = sum(x.shape[1] for x in images)
    draws = torch.from_numpy(uniform(seed, "train", index.cpu().numpy(), AUGMENT_STREAM, 6 * total))
    draws = draws.reshape(len(index), total, 6).to(images[0].device, non_blocking=True)
    return tuple(
        _jitter(_crop_and_flip(x.flatten(0, 1), d[..., :3].flatten(0, 1)), d[..., 3:].flatten(0, 1)).reshape(x.shape)
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


def _jitter(x: Tensor, draws: Tensor) -> Tensor:
    """``x`` ``[B, C, H, W]`` in [0, 1]; ``draws`` ``[B, 3]`` in (0, 1): brightness, contrast, saturation.

    Each, in this order, moves the image from or towards black, its mean grey, its own grey picture, cut off at 0 and 1
    (as torchvision's ColorJitter, which also draws the order). A picture with one channel has no saturation.
    """
    brightness, contrast, saturation = (1 + JITTER * (2 * draws.to(x.dtype) - 1))[:, :, None, None, None].unbind(1)
    x = (brightness * x).clamp(0, 1)
    mean = _grey(x).mean((1, 2, 3), keepdim=True)
    x = (mean + contrast * (x - mean)).clamp(0, 1)
    grey = _grey(x)
    return (grey + saturation * (x - grey)).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, 1, H, W]``."""
    return x if x.shape[1] == 1 else torch.einsum("bchw,c->bhw", x, x.new_tensor(LUMA))[:, None]
