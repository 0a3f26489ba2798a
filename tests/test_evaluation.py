"""Means, intervals, and what becomes of episodes that diverge."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from few_shot.errors import BadInput
from few_shot.evaluation import (
    EpisodeResults,
    mean_ci95,
    paired_difference,
    read_episodes,
    summarize,
    table,
    write_episodes,
)


def results(loss, metric=None):
    loss = np.asarray(loss, dtype=float)
    metric = loss if metric is None else np.asarray(metric, dtype=float)
    return EpisodeResults(np.arange(len(loss)) + 10, list(range(loss.shape[1])), loss, metric)


def test_interval_by_hand():
    # Mean 3, sum of squares 10, variance 10 / 4.
    mean, ci95 = mean_ci95(np.array([1.0, 2, 3, 4, 5]))
    assert mean == 3
    assert ci95 == pytest.approx(1.96 * math.sqrt(2.5) / math.sqrt(5), rel=1e-12)


@pytest.mark.parametrize(("n", "expected"), [(0, (None, None)), (1, (7.0, None))])
def test_interval_of_too_few(n, expected):
    assert mean_ci95(np.full(n, 7.0)) == expected


@pytest.mark.parametrize(
    ("episode", "diverged"),
    [
        ([1.0, 0.5, 0.2], False),
        ([1.0, 100.0, 0.2], False),
        ([1.0, 100.1, 0.2], True),  # over 100 times its own at step 0, between the first step and the last
        ([1.0, 0.5, math.nan], True),
        ([1.0, math.inf, 0.5], True),
        ([math.nan, 0.5, 0.5], True),
        ([math.inf, 0.5, 0.5], True),
        ([0.001, 0.05, 0.2], True),  # its own step 0, not the others'
    ],
)
def test_which_episodes_have_diverged(episode, diverged):
    assert results([[1.0, 1.0, 1.0], episode]).diverged.tolist() == [False, diverged]


def test_of_classes_a_good_start_is_no_yardstick():
    """One query sample in five wrong, after a start from prototypes that was nearly sure."""
    found = results([[1e-4, 0.3], [1e-4, 101.0], [1.6, 150.0], [1.6, 170.0]])
    assert found.diverged.tolist() == [True, True, False, True]
    found.of_classes = True
    assert found.diverged.tolist() == [False, True, False, True]


def test_a_diverged_episode_leaves_an_error_at_every_step_and_is_named():
    summary = summarize(results([[4.0, 2.0], [2.0, 1.0], [1.0, math.nan]]), "mse", seed=0, transductive=True)
    assert [row["mean"] for row in summary["per_step"]] == [3.0, 1.5]
    assert (summary["diverged"], summary["diverged_episodes"], summary["episodes"]) == (1, [12], 3)
    assert "1 of 3 episodes diverged" in table(summary)
    assert "12" in table(summary)


def test_a_diverged_episode_counts_0_in_an_accuracy():
    """NaN logits still score one in five: the accuracy says nothing of divergence, the loss does."""
    found = results([[1.0, 0.5], [1.0, math.nan]], metric=[[0.2, 0.8], [0.2, 0.2]])
    summary = summarize(found, "accuracy", seed=0, transductive=False)
    assert [row["mean"] for row in summary["per_step"]] == [0.2, 0.4], "before it diverged it counts as it is"
    assert found.by_episode("accuracy") == {10: 0.8, 11: 0.0}
    found.index[:] = 10
    with pytest.raises(BadInput, match="Episode 10 is there more than once: number the episodes"):
        found.by_episode("accuracy")
    assert found.mean_loss() == (0.5, None)
    assert "non-transductive" in table(summary)


def test_undefined_means_are_null():
    summary = summarize(results([[1.0, math.nan]]), "mse", seed=0, transductive=True)
    assert summary["mean"] is summary["ci95"] is summary["per_step"][0]["mean"] is None
    assert "undefined" in table(summary)


@given(st.lists(st.floats(0.1, 1.0), min_size=2, max_size=30), st.integers(1, 5))
def test_parts_from_any_number_of_processes_give_the_same_summary(losses, processes):
    whole = results([[loss, loss / 2] for loss in losses])
    parts = [
        EpisodeResults(whole.index[i::processes], whole.steps, whole.loss[i::processes], whole.metric[i::processes])
        for i in range(processes)
    ]
    assert summarize(EpisodeResults.concatenate(parts), "mse", 0, True) == summarize(whole, "mse", 0, True)


def test_episodes_file(tmp_path):
    write_episodes(results([[1.0, 0.5], [1.0, math.nan]]), "mse", tmp_path / "test_episodes.csv")
    rows = list(csv.DictReader((tmp_path / "test_episodes.csv").open()))
    assert [(r["episode"], r["step"], r["diverged"]) for r in rows] == [
        ("10", "0", "0"),
        ("10", "1", "0"),
        ("11", "0", "1"),
        ("11", "1", "1"),
    ]
    assert [float(r["loss"]) for r in rows[:3]] == [1.0, 0.5, 1.0]
    assert list(rows[0]) == ["episode", "step", "loss", "mse", "diverged"]


def test_episodes_file_is_read_as_it_was_written(tmp_path):
    written = results([[1.0, 0.5], [1.0, math.nan], [3.0, 1 / 3]])
    write_episodes(written, "mse", tmp_path / "test_episodes.csv")
    found = read_episodes(tmp_path / "test_episodes.csv")
    assert found.steps == written.steps and found.index.tolist() == written.index.tolist()
    np.testing.assert_array_equal(found.loss, written.loss)
    np.testing.assert_array_equal(found.metric, written.metric)


def test_a_paired_difference_is_over_the_episodes_that_both_have():
    ours, theirs = {1: 5.0, 2: 7.0, 3: 9.0, 8: 100.0}, {3: 6.0, 2: 5.0, 1: 4.0, 9: -100.0}
    # Differences 1, 2, 3: mean 2, variance 1.
    assert paired_difference(ours, theirs) == (2.0, pytest.approx(1.96 / math.sqrt(3), rel=1e-12), 3)
    diverged = results([[1.0, 0.5], [1.0, math.nan]])
    assert diverged.by_episode("mse") == {10: 0.5}
    assert diverged.by_episode("accuracy") == {10: 0.5, 11: 0.0}


def test_an_episode_counts_once_unless_numbers_repeat_within_a_process():
    def part(index, metric):
        return EpisodeResults(np.array(index), [0], np.ones((len(index), 1)), np.array(metric)[:, None])

    shares = [part([0, 2, 4], [1.0, 3.0, 5.0]), part([1, 3, 0], [2.0, 4.0, 9.0])]  # 0 fills the second share up
    assert EpisodeResults.of_processes(shares).mean_metric("mse")[0] == 3.0
    assert EpisodeResults.of_processes(shares).index.tolist() == [0, 1, 2, 3, 4]
    unnumbered = [part([0, 1, 0, 1], [1.0, 2.0, 3.0, 4.0]), part([0, 1], [5.0, 9.0])]
    assert EpisodeResults.of_processes(unnumbered).mean_metric("mse")[0] == 4.0


def test_a_loss_below_zero_does_not_diverge_by_itself():
    found = results([[-3.5, -2.1], [-5.4, 1.1], [0.0, 0.5], [0.1, 10.1], [-1.0, np.inf]])
    assert found.diverged.tolist() == [False, False, False, True, True]
