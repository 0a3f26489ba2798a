"""Augmentation does what numpy and torchvision do to one image after the other, and the same whenever it is asked."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from few_shot.data.augment import OF_DRAWINGS, OF_PHOTOS, augment
from few_shot.episodes import AUGMENT_STREAM, uniform


def episodes(channels=3, tasks=4):
    torch.manual_seed(0)
    return tuple(torch.rand(tasks, n, channels, 20, 30, dtype=torch.float64) for n in (2, 3))


def photo_by_hand(image, draws):
    """One image ``[C, H, W]`` with its six draws: pad by reflection and cut out, mirror, then jitter."""
    down, right = (int(d * (2 * reach + 1)) - reach for d, reach in zip(draws[:2], (2, 3), strict=True))
    padded = np.pad(image.numpy(), ((0, 0), (2, 2), (3, 3)), mode="reflect")
    image = torch.tensor(padded[:, 2 + down : 22 + down, 3 + right : 33 + right])
    if draws[2] >= 0.5:
        image = image.flip(2)
    jitters = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    for adjust, draw in zip(jitters, draws[3:], strict=True):
        image = adjust(image, 0.6 + 0.8 * draw)
    return image


def drawing_by_hand(image, draws):
    """One image ``[C, H, W]`` with its three draws: torchvision turns about the middle, then shifts."""
    down, right, turn = (float(2 * draw - 1) for draw in draws)
    return functional.affine(image, 11.25 * turn, [3 * right, 2 * down], scale=1, shear=[0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("how", "by_hand"), [(OF_PHOTOS, photo_by_hand), (OF_DRAWINGS, drawing_by_hand)])
def test_augmentation_is_that_of_one_image_after_the_other(how, by_hand, channels):
    images, index = episodes(channels), torch.tensor([3, 8, 1, 2**33])
    augmented = augment(images, 5, index, how)
    draws = uniform(5, "train", index.numpy(), AUGMENT_STREAM, how.numbers * 5).reshape(4, 5, how.numbers)
    together, oracle = torch.cat(images, 1), torch.cat(augmented, 1)
    assert len({tuple(d) for d in (draws[..., :3] * (5, 7, 2)).astype(int).reshape(-1, 3)}) > 10
    for task in range(4):
        for i in range(5):
            torch.testing.assert_close(by_hand(together[task, i], draws[task, i]), oracle[task, i])


def test_an_augmented_drawing_stays_black_and_white():
    drawing = (torch.rand(3, 4, 1, 28, 28) < 0.2).float()
    (augmented,) = augment((drawing,), 5, torch.arange(3), OF_DRAWINGS)
    assert set(augmented.unique().tolist()) == {0, 1}
    assert not torch.equal(augmented, drawing)


@pytest.mark.parametrize("how", [OF_PHOTOS, OF_DRAWINGS])
def test_an_episode_is_augmented_the_same_alone_and_in_any_batch(how):
    images, index = episodes(), torch.tensor([3, 8, 1, 2])
    together = augment(images, 5, index, how)
    for task in range(4):
        alone = augment(tuple(x[task : task + 1] for x in images), 5, index[task : task + 1], how)
        assert all(torch.equal(a[0], t[task]) for a, t in zip(alone, together, strict=True))
    for seed, numbers in ((6, index), (5, index + 1)):
        other = augment(images, seed, numbers, how)
        assert not any(torch.equal(a, b) for a, b in zip(other[0], together[0], strict=True))
