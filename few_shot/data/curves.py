"""Tasks that are curves: a task distribution of one's own is one class with one method."""

import numpy as np
import torch
from numpy.typing import NDArray

from few_shot.data.base import EpisodeDataModule
from few_shot.episodes import POINT_STREAM, WAVE_STREAM, EpisodeBatch, Split, uniform


class CurveEpisodes(EpisodeDataModule):
    """Regression of curves y = f(x), each seen at a few points. A task distribution implements :meth:`truth`.

    Every split draws from the same distribution of curves; the splits differ in their random numbers.
    """

    metric = "mse"
    loss = "mse_loss"
    input_shape = (1,)
    output_size = 1
    updates_at_once = 16
    low, high = -5.0, 5.0  # the points of a task lie between these

    def __init__(self, support_samples: int = 10, test_query_samples: int = 100, batch_size: int = 25, **base) -> None:
        super().__init__(
            support_samples=support_samples, test_query_samples=test_query_samples, batch_size=batch_size, **base
        )

    def truth(self, split: Split, seed: int, index: NDArray, x: NDArray) -> NDArray:
        """The values of T tasks' curves at points, a pure function of its arguments.

        Args:
            split: train, val or test.
            seed: of the split's tasks.
            index: the tasks' numbers, ``[T]``.
            x: points, ``[T, n, 1]``.

        Returns:
            ``[T, n, 1]``.
        """
        raise NotImplementedError

    def numbers(self, split: Split, seed: int, index: NDArray, n: int) -> NDArray:
        """``n`` random numbers from 0 to 1 for each task, ``[T, n, 1, 1]``: what its curve is made of."""
        return uniform(seed, split, index, WAVE_STREAM, n)[:, :, None, None]

    def draw(self, split: Split, seed: int, index: NDArray) -> EpisodeBatch:
        """Draw T episodes; points and values are ``[T, n, 1]``."""
        points = self.support_samples + self.queries(split)
        at = (self.high - self.low) * uniform(seed, split, index, POINT_STREAM, points)[:, :, None] + self.low
        x, y = torch.from_numpy(at), torch.from_numpy(np.asarray(self.truth(split, seed, index, at)))
        shots = self.support_samples
        return EpisodeBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:], torch.as_tensor(index))
