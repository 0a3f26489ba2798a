"""Augmentation of a batch of images at once, on their device."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from few_shot.episodes import AUGMENT_STREAM, uniform

#: The weights of red, green and blue in a grey value (ITU-R 601, as in torchvision).
LUMA = (0.2989, 0.587, 0.114)
#: Brightness, contrast and saturation are scaled by 1 ± this.
JITTER = 0.4
#: A drawing is turned by up to this, either way (Santoro et al. 2016 turn Omniglot's drawings too).
TURN = math.pi / 16


class Augmentation(NamedTuple):
    """A kind of augmentation: the change it makes to images ``[B, C, H, W]``, and how many draws each image needs.

    ``change(images, draws)`` gets draws in (0, 1), ``[B, numbers]``.
    """

    numbers: int
    change: Callable[[Tensor, Tensor], Tensor]


def augment(images: tuple[Tensor, ...], seed: int, index: Tensor, how: Augmentation) -> tuple[Tensor, ...]:
    """Change every image at random.

    Every image has its own draws, support and query alike. A change shared by the whole task would be undone by batch
    norm. The draws are a pure function of the seed and the episode's index, as the episode is.

    Args:
        images: tensors ``[T, n, C, H, W]`` in [0, 1], of the same T episodes.
        seed: the seed of the training episodes.
        index: the episodes' numbers, ``[T]``; on the host, or a GPU would have to wait for them.
        how: :data:`OF_PHOTOS` or :data:`OF_DRAWINGS`.
    """
    total = sum(x.shape[1] for x in images)
    draws = torch.from_numpy(uniform(seed, "train", index.cpu().numpy(), AUGMENT_STREAM, how.numbers * total))
    draws = draws.reshape(len(index), total, how.numbers).to(images[0].device, non_blocking=True)
    return tuple(
        how.change(x.flatten(0, 1), d.flatten(0, 1)).reshape(x.shape)
        for x, d in zip(images, draws.split([x.shape[1] for x in images], dim=1), strict=True)
    )


def _photos(x: Tensor, draws: Tensor) -> Tensor:
    return _jitter(_crop_and_flip(x, draws[:, :3]), draws[:, 3:])


def _drawings(x: Tensor, draws: Tensor) -> Tensor:
    """``x`` ``[B, C, H, W]``; ``draws`` ``[B, 3]`` in (0, 1): vertical shift, horizontal shift, angle."""
    height, width = x.shape[-2:]
    down, right, angle = (2 * draws - 1).to(x.dtype).unbind(1)
    cos, sin = torch.cos(TURN * angle), torch.sin(TURN * angle)
    # Where a pixel comes from, as affine_grid counts: the image is 2 high and 2 wide.
    rows = torch.stack((cos, sin * height / width, -sin * width / height, cos), 1).reshape(-1, 2, 2)
    shift = 0.2 * torch.stack((right, down), 1)[:, :, None]
    grid = F.affine_grid(torch.cat((rows, -rows @ shift), 2), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", align_corners=False)


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


#: Shift by up to a tenth of the size (reflecting the border), mirror or not, and jitter the colours.
OF_PHOTOS = Augmentation(6, _photos)
#: Shift by up to a tenth of the size and turn by up to 11.25°. What comes in is 0; a pixel keeps its value (nearest
#: neighbour). There is no mirroring: a mirrored character is another one.
OF_DRAWINGS = Augmentation(3, _drawings)
