"""Linear regression tasks, on which the inner loops of the MAML family have closed forms."""

import pytest
import torch
from torch import nn

from few_shot.episodes import EpisodeBatch

TASKS, SHOTS, QUERIES, FEATURES = 3, 7, 5, 4


@pytest.fixture
def linear(float64):
    """A linear model without bias and 3 tasks of noisy linear data."""
    torch.manual_seed(0)
    x = [torch.randn(TASKS, n, FEATURES) for n in (SHOTS, QUERIES)]
    y = [v @ torch.randn(TASKS, FEATURES, 1) + 0.1 * torch.randn(TASKS, v.shape[1], 1) for v in x]
    return nn.Linear(FEATURES, 1, bias=False), EpisodeBatch(x[0], y[0], x[1], y[1], torch.arange(TASKS))


@pytest.fixture
def smooth(float64):
    """A small network with smooth units, for finite differences, and 3 tasks of sines."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))
    x = [4 * torch.rand(TASKS, n, 1) - 2 for n in (SHOTS, QUERIES)]
    phase = torch.rand(TASKS, 1, 1)
    return model, EpisodeBatch(x[0], (x[0] + phase).sin(), x[1], (x[1] + phase).sin(), torch.arange(TASKS))
