"""The benchmark times what it says: equal gradients, and rivals that take turns in processes of their own."""

import os

import numpy as np
import pytest
import torch

from benchmarks import checkpointing, peers, scaling, speed_table, step
from benchmarks.race import race
from benchmarks.workloads import ALL_ADAPT, WORKLOADS, Workload, build

SMALL_CONV4 = (
    "--data_class=CifarFS",
    *ALL_ADAPT,
    "--width=4",
    "--inner_loop_steps=2",
    "--test_inner_loop_steps=2",
    "--batch_size=2",
)
PROBLEMS = {
    "sinusoid": WORKLOADS["sinusoid"],
    "second order": Workload("", SMALL_CONV4, 1),
    "first order": Workload("", (*SMALL_CONV4, "--first_order"), 1),
    "test": Workload("", SMALL_CONV4, 1, test=True),
    "scaling": scaling.workload("batch_size", 1),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("peer", ["ours", "learn2learn", "higher", "jax_jit"])
def test_everybody_has_the_plain_loops_gradient(name, peer):
    if peer != "ours":
        pytest.importorskip(peer.removesuffix("_jit"))
    if peer == "jax_jit" and name != "sinusoid":
        pytest.skip("JAX has the sinusoid's model alone")
    results = [
        step._flat(make(build(PROBLEMS[name], dtype=torch.float64))())
        for make in (peers.plain_loop, getattr(peers, peer))
    ]
    np.testing.assert_allclose(*results, rtol=1e-9, atol=1e-12)
    assert np.abs(results[0]).max() > 1e-3


def test_another_gradient_is_not_timed():
    right = np.arange(5.0)
    facts = {name: {"result_32": right, "result_64": right} for name in ("plain loop", "ours", "higher")}
    facts["higher"]["result_64"] = right + 1e-6
    step.check(facts)
    assert "error" in facts["higher"]
    assert "error" not in facts["ours"] and facts["ours"]["error_64"] == 0


def enter(answer):
    if answer is None:
        raise ValueError("no such peer")
    return {"process": os.getpid()}, lambda: answer


@pytest.mark.slow
def test_rivals_take_turns_in_processes_of_their_own():
    facts = race({"a": (enter, (1.0,)), "b": (enter, (2.0,)), "c": (enter, (None,))}, rounds=4)
    assert facts["a"]["seconds"] == 1.0
    assert facts["b"]["quartiles"] == [2.0, 2.0]
    assert len({facts["a"]["process"], facts["b"]["process"], os.getpid()}) == 3
    assert facts["c"] == {"error": "ValueError: no such peer"}


@pytest.mark.parametrize("program", [step, scaling, checkpointing])
@pytest.mark.parametrize("rounds", ["1", "-3", "two"])
def test_a_race_of_fewer_than_two_turns_is_refused(program, rounds, capsys):
    with pytest.raises(SystemExit):
        program.main([f"--rounds={rounds}"])
    assert "--rounds: it must be a whole number of at least 2" in capsys.readouterr().err


def test_table_names_who_could_not_take_part():
    rivals = {
        "ours": {"seconds": 1.0, "quartiles": [0.9, 1.1], "ops": 10, "memory": 5e6},
        "plain loop": {"seconds": 2.0, "quartiles": [2.0, 2.0], "ops": 3000, "memory": 2e9},
        "higher": {"error": "does not install: no compiler"},
    }
    peaks = {"convolution_gflops": 100, "matmul_gflops": 90, "copy_gbs": 10}
    cells = [speed_table._time(rivals, name) for name in rivals]
    assert cells == ["**1.00 s ±10 %**", "2.00 s ±0 % (2.00×)", "does not install: no compiler"]
    costs = speed_table._cost({"rivals": rivals, "flops": 40e9}, peaks)
    assert costs == ["40", "40 %", "10 / 3 000", "5 MB / 2.00 GB"]
