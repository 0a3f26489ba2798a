"""What a metric computes, and how it counts and prints."""

import math

import numpy as np
import pytest
import torch

from few_shot.errors import BadInput
from few_shot.evaluation import EpisodeResults, summarize, table
from few_shot.metrics import METRICS, metric_by_name


def test_accuracy_is_the_share_of_each_tasks_samples():
    predictions = torch.tensor([[[2.0, 1, 0], [0, 1, 2]], [[0, 5, 1], [3, 2, 1]]])
    assert METRICS["accuracy"].scores(predictions, torch.tensor([[0, 1], [1, 0]])).tolist() == [0.5, 1.0]


def test_mean_squared_error_is_over_samples_and_outputs():
    predictions, targets = (
        torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]]),
        torch.tensor([[[0.0], [0.0]], [[2.0], [0.0]]]),
    )
    assert METRICS["mse"].scores(predictions, targets).tolist() == [5.0, 2.0]


def test_further_outputs_are_no_part_of_the_mean_squared_error():
    """A loss of one's own may want a variance after the mean."""
    predictions = torch.tensor([[[1.0, 7.0], [3.0, 7.0]]])
    assert METRICS["mse"].scores(predictions, torch.tensor([[[0.0], [0.0]]])).tolist() == [5.0]
    with pytest.raises(BadInput):
        METRICS["mse"].scores(predictions, torch.zeros(1, 2, 3))


@pytest.mark.parametrize(
    ("name", "mean", "row", "counted"),
    [("accuracy", 0.25, "25.00 ± 49.00 %", "counted as 0"), ("mse", 0.5, "0.5000 ± undefined", "left out of the mean")],
)
def test_a_diverged_episode_counts_as_the_metric_says(name, mean, row, counted):
    half = np.array([[0.5], [0.5]])
    summary = summarize(EpisodeResults(np.arange(2), [0], np.array([[1.0], [math.nan]]), half), name, 0, True)
    assert summary["mean"] == mean
    assert row in table(summary) and counted in table(summary)


def test_an_unknown_metric_is_named():
    with pytest.raises(BadInput, match="metric=f1 is unknown: choose one of accuracy, mse"):
        metric_by_name("f1")
