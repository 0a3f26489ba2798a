"""Episodes: the generator against its published vectors, and the promises every algorithm relies on."""

import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from few_shot.data.base import share
from few_shot.data.sinusoid import Sinusoid
from few_shot.episodes import (
    SPLITS,
    draw_classification,
    philox_4x32,
    random_words,
    sample_without_replacement,
    uniform,
)
from few_shot.errors import BadInput

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """The vectors of the Random123 library's kat_vectors, philox4x32 with 10 rounds."""
    words = philox_4x32(tuple(np.array([c], np.uint64) for c in counter), (np.uint64(key[0]), np.uint64(key[1])))
    assert tuple(int(w[0]) for w in words) == expected


draws = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**40),
        "split": st.sampled_from(SPLITS),
        "index": st.lists(st.integers(0, 2**62), min_size=1, max_size=8).map(np.asarray),
        "class_sizes": st.lists(st.integers(6, 50), min_size=5, max_size=40).map(np.asarray),
        "ways": st.integers(2, 5),
        "samples": st.integers(1, 6),
        "shuffle_labels": st.booleans(),
    }
)


@given(draws)
@settings(deadline=None)
def test_an_episode_repeats_no_class_and_no_sample(draw):
    classes, samples = draw_classification(**draw)
    assert classes.shape == (len(draw["index"]), draw["ways"])
    assert samples.shape == (*classes.shape, draw["samples"])
    assert classes.min() >= 0 and classes.max() < len(draw["class_sizes"])
    assert (samples >= 0).all() and (samples < draw["class_sizes"][classes][:, :, None]).all()
    assert (np.diff(np.sort(classes, axis=1), axis=1) > 0).all()
    # All of a class's samples differ, so that support and query, which are cut out of them, share none.
    assert (np.diff(np.sort(samples, axis=2), axis=2) > 0).all()


@given(draws)
@settings(deadline=None)
def test_an_episode_is_the_same_alone_and_in_any_batch(draw):
    together = draw_classification(**draw)
    for i, number in enumerate(draw["index"]):
        alone = draw_classification(**{**draw, "index": np.asarray([number])})
        assert all((a[0] == t[i]).all() for a, t in zip(alone, together, strict=True))


@given(draws)
@settings(deadline=None)
def test_labels_follow_the_classes_unless_shuffled(draw):
    classes, _ = draw_classification(**{**draw, "shuffle_labels": False})
    assert (np.diff(classes, axis=1) > 0).all()
    shuffled, _ = draw_classification(**{**draw, "shuffle_labels": True})
    assert (np.sort(shuffled, axis=1) == classes).all()


def test_an_episode_has_at_most_one_variant_of_a_thing():
    """Of 6 characters in 4 rotations, 5 are drawn; every rotation is as likely; samples are as without variants."""
    sizes = np.full(24, 20)
    classes, samples = draw_classification(3, "val", np.arange(4000), sizes, ways=5, samples=2, variants=4)
    characters = np.sort(classes % 6, axis=1)
    assert (characters[:, 1:] != characters[:, :-1]).all() and set(np.unique(classes)) == set(range(24))
    np.testing.assert_allclose(np.bincount((classes // 6).ravel()) / classes.size, 0.25, atol=0.01)
    plain, of_plain = draw_classification(3, "val", np.arange(4000), sizes[:6], ways=5, samples=2)
    assert np.array_equal(classes % 6, plain) and np.array_equal(samples, of_plain)


def test_shuffled_labels_take_every_order():
    classes, _ = draw_classification(0, "train", np.arange(200), np.full(3, 5), ways=3, samples=1)
    assert len({tuple(c) for c in classes}) == 6


def test_seeds_splits_and_indices_draw_different_episodes():
    sizes, index = np.full(64, 600), np.arange(20)
    seen = [draw_classification(seed, split, index, sizes, 5, 16)[1].tobytes() for seed in range(5) for split in SPLITS]
    assert len(set(seen)) == len(seen)
    _, samples = draw_classification(0, "train", np.arange(1000), sizes, 5, 16)
    assert len({s.tobytes() for s in samples}) == 1000


def test_more_samples_leave_the_classes_as_they_are():
    sizes, index = np.full(64, 600), np.arange(20)
    few, many = (draw_classification(0, "test", index, sizes, 5, samples)[0] for samples in (2, 30))
    assert (few == many).all()


def assert_uniform(counts):
    """A chi-square statistic of k cells has mean k - 1 and variance 2 (k - 1)."""
    counts = np.asarray(counts)
    statistic, freedom = ((counts - counts.mean()) ** 2 / counts.mean()).sum(), counts.size - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_classes_and_samples_are_uniform():
    classes, samples = draw_classification(0, "train", np.arange(20_000), np.full(64, 100), 5, 6)
    for position in range(5):
        assert_uniform(np.bincount(classes[:, position], minlength=64))
    for position in range(6):
        assert_uniform(np.bincount(samples[:, 2, position], minlength=100))
    pairs = classes[:, 0] * 64 + classes[:, 1]
    off_diagonal = np.bincount(pairs, minlength=64 * 64).reshape(64, 64)[~np.eye(64, dtype=bool)]
    assert_uniform(off_diagonal)


def test_all_of_a_population_is_a_uniform_permutation():
    words = random_words(0, "train", np.arange(24_000), 0, 8)
    chosen = sample_without_replacement(words, population=4)
    assert (np.sort(chosen, axis=1) == np.arange(4)).all()
    assert_uniform(np.unique(chosen @ np.array([1, 10, 100, 1000]), return_counts=True)[1])


def test_uniform_numbers_are_in_the_open_interval_and_uniform():
    x = uniform(0, "train", np.arange(50_000), 2, 2)
    assert x.min() > 0 and x.max() < 1
    assert_uniform(np.histogram(x[:, 0], bins=100, range=(0, 1))[0])
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.02


@given(st.integers(1, 300), st.integers(1, 64))
def test_shares_are_exactly_the_whole(total, world_size):
    shares = [share(total, rank, world_size) for rank in range(world_size)]
    assert [i for s in shares for i in s] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def on_rank(rank, world_size, first_update=0, limits=None, **kwargs):
    data = Sinusoid(**kwargs)
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, global_step=first_update, lightning_module=None, **(limits or {})
    )
    return data


def take(loader, n):
    return [batch for batch, _ in zip(loader, range(n), strict=False)]


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_meta_batches_of_one_process(world_size):
    alone = take(Sinusoid(batch_size=5).train_dataloader(), 3)
    ranks = [take(on_rank(r, world_size, batch_size=5).train_dataloader(), 3) for r in range(world_size)]
    for update, whole in enumerate(alone):
        parts = [rank[update] for rank in ranks]
        assert all(torch.equal(torch.cat(p), w) for p, w in zip(zip(*parts, strict=True), whole, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 7])
def test_ranks_share_the_test_episodes_of_one_process(world_size):
    numbers = [b.index for r in range(world_size) for b in on_rank(r, world_size, test_episodes=10).test_dataloader()]
    assert torch.equal(torch.cat(numbers), torch.arange(10))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("split", ["val", "test"])
def test_ranks_share_the_episodes_that_a_limit_leaves(world_size, split):
    sizes = {"batch_size": 5, "val_episodes": 40, "test_episodes": 40}
    for limit, episodes in ((2, 10), (100, 40), (1.0, 40)):
        ranks = [on_rank(r, world_size, limits={f"limit_{split}_batches": limit}, **sizes) for r in range(world_size)]
        batches = [list(getattr(rank, f"{split}_dataloader")()) for rank in ranks]
        if isinstance(limit, int):  # which Lightning holds each of them to
            assert max(map(len, batches)) <= limit
        assert torch.equal(torch.cat([b.index for of_rank in batches for b in of_rank]), torch.arange(episodes))


def test_a_resumed_run_goes_on_with_the_next_meta_batch():
    whole = take(Sinusoid(batch_size=3).train_dataloader(), 5)
    rest = take(on_rank(0, 1, first_update=3, batch_size=3).train_dataloader(), 2)
    assert all(torch.equal(a, b) for x, y in zip(whole[3:], rest, strict=True) for a, b in zip(x, y, strict=True))


def test_fewer_tasks_than_processes_are_refused():
    with pytest.raises(BadInput, match=r"batch_size=2.*3 processes"):
        on_rank(0, 3, batch_size=2).train_dataloader()


@pytest.mark.parametrize("split", ["val", "test"])
def test_fewer_episodes_than_processes_are_refused(split):
    with pytest.raises(BadInput, match=f"^{split}_episodes=1 is fewer than the 2 processes that share them"):
        getattr(on_rank(0, 2, **{f"{split}_episodes": 1}), f"{split}_dataloader")()


class AsksForSignals(Sinusoid):
    def draw(self, *arguments):
        assert {signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)} == {signal.SIG_IGN}
        return super().draw(*arguments)


def test_a_worker_leaves_signals_to_the_run():
    """A terminal sends them to all; a worker that ended would end the run without a checkpoint."""
    assert len(next(iter(AsksForSignals(num_workers=1, batch_size=2).train_dataloader())).index) == 2
