"""What makes a step fast stays: ours against the plain loop, in turn, with a margin wide enough for a busy machine."""

import statistics

import pytest

from benchmarks import machine, peers
from benchmarks.workloads import ALL_ADAPT, Workload, build

SMALL_CONV4 = ("--data_class=Omniglot", *ALL_ADAPT, "--width=8", "--batch_size=16")


@pytest.mark.parametrize(
    ("flags", "sinusoid", "at_least"),
    [(("--data_class=Sinusoid",), True, 3.0), (SMALL_CONV4, False, 1.5)],
    ids=["sinusoid", "Conv4"],
)
def test_ours_is_so_many_times_faster_than_the_plain_loop(flags, sinusoid, at_least):
    problem = build(Workload("", flags, rounds=11, sinusoid=sinusoid))
    steps = [make(problem) for make in (peers.ours, peers.plain_loop)]
    taken = [[machine.seconds(step, "cpu") for step in steps] for _ in range(11)]
    ours, loop = (statistics.median(times[2:]) for times in zip(*taken, strict=True))  # the first two warm up
    assert loop / ours > at_least, f"only {loop / ours:.1f} times faster"
