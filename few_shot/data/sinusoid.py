"""The sinusoid regression tasks of MAML (Finn et al. 2017, section 5.1)."""

import numpy as np
from numpy.typing import NDArray

from few_shot.data.curves import CurveEpisodes
from few_shot.episodes import Split


class Sinusoid(CurveEpisodes):
    """Sine waves y = A sin(x - φ) with A in [0.1, 5], φ in [0, π], seen at points x in [-5, 5]."""

    def waves(self, split: Split, seed: int, index: NDArray) -> tuple[NDArray, NDArray]:
        """Amplitude and phase of the episodes' waves, ``[T, 1, 1]`` each."""
        draws = self.numbers(split, seed, index, 2)
        return 0.1 + 4.9 * draws[:, 0], np.pi * draws[:, 1]

    def truth(self, split: Split, seed: int, index: NDArray, x: NDArray) -> NDArray:
        """The waves at any points x ``[T, n, 1]``."""
        amplitude, phase = self.waves(split, seed, index)
        return amplitude * np.sin(x - phase)
