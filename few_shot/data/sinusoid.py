"""The sinusoid regression tasks of MAML (Finn et al. 2017, section 5.1)."""

import numpy as np
import torch
from numpy.typing import NDArray

from few_shot.data.base import EpisodeDataModule
from few_shot.episodes import POINT_STREAM, WAVE_STREAM, EpisodeBatch, Split, uniform


class Sinusoid(EpisodeDataModule):
    """Sine waves y = A sin(x - φ) with A in [0.1, 5], φ in [0, π], seen at points x in [-5, 5].

    Every split draws from the same distribution of waves; the splits differ in their random numbers.
    """

    metric = "mse"
    loss = "mse_loss"
    input_shape = (1,)
    output_size = 1
    updates_at_once = 16

    def __init__(self, support_samples: int = 10, test_query_samples: int = 100, batch_size: int = 25, **base) -> None:
        super().__init__(
            support_samples=support_samples, test_query_samples=test_query_samples, batch_size=batch_size, **base
        )

    def waves(self, split: Split, seed: int, index: NDArray) -> tuple[NDArray, NDArray]:
        """Amplitude and phase of the episodes' waves, ``[T, 1, 1]`` each."""
        draws = uniform(seed, split, index, WAVE_STREAM, 2)[:, :, None, None]
        return 0.1 + 4.9 * draws[:, 0], np.pi * draws[:, 1]

    def truth(self, split: Split, seed: int, index: NDArray, x: NDArray) -> NDArray:
        """The values of T episodes' waves at any points x ``[T, n, 1]``; pictures draw it."""
        amplitude, phase = self.waves(split, seed, index)
        return amplitude * np.sin(x - phase)

    def draw(self, split: Split, seed: int, index: NDArray) -> EpisodeBatch:
        """Draw T episodes; points and values are ``[T, n, 1]``."""
        points = self.support_samples + self.queries(split)
        at = 10 * uniform(seed, split, index, POINT_STREAM, points)[:, :, None] - 5
        x, y = torch.from_numpy(at), torch.from_numpy(self.truth(split, seed, index, at))
        shots = self.support_samples
        return EpisodeBatch(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:], torch.as_tensor(index))
