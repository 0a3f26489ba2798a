"""However its processes were started, a run is one run: the same tasks, gradients, numbers, and one folder."""

import contextlib
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from helpers import ROOT, last_weights, write_random_class_folders
from many_runs import run_all
from pytorch_lightning.utilities.rank_zero import rank_zero_only

import few_shot.lit_models
from few_shot.errors import BadInput
from training.command_line import parse
from training.devices import processes, world_of

QUICK = ["--gpus=0", "--batch_size=5", "--val_episodes=7", "--test_episodes=11", "--max_steps=2"]
QUICK += ["--outer_schedule=constant", "--outer_optimizer=sgd", "--outer_lr=0.05"]
SINUSOID = ["--data_class=Sinusoid", *QUICK, "--test_inner_loop_steps=2"]
SIZES = ["--episode_classes=3", "--query_samples=2", "--test_query_samples=2", "--width=4"]
OF_CLASSES = ["LitProtoMAML", "LitProtoNet"]
#: A rate at which training through batch norm stays finite: else rounding errors grow with the weights.
NORM = ["--model_class=helpers.BatchNormMLP", "--outer_lr=0.001"]


def free_port():
    """One below those that the system hands out, so that no connection has it before the launcher does."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


@contextmanager
def two_nodes(command, log_dir):
    """Torchrun with two processes, started twice, as on two nodes; the launchers, and the files of what they print."""
    place = ["--nnodes=2", "--nproc_per_node=2", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    said = [log_dir / f"node{node}.txt" for node in (0, 1)]
    nodes = []
    for node, file in enumerate(said):
        launcher = [sys.executable, "-m", "torch.distributed.run", *place, f"--node_rank={node}", *map(str, command)]
        with file.open("w") as output:
            nodes.append(subprocess.Popen(launcher, cwd=ROOT, env=environment, stdout=output, stderr=output))
    try:
        yield nodes, said
    finally:
        for node in nodes:
            node.terminate()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By name, the flags of a run of every algorithm."""
    images = write_random_class_folders(tmp_path_factory.mktemp("images"), classes=6, images=8)
    of_images = ["--data_class=MiniImagenet", f"--data_dir={images}", *QUICK, *SIZES]
    names = [name for name in few_shot.lit_models.__all__ if name not in OF_CLASSES]
    found = {name: [*SINUSOID, "--width=8", f"--lit_model_class={name}"] for name in names}
    unused = {"--outer_schedule", "--outer_optimizer", "--outer_lr"}
    found["LitRandom"] = [flag for flag in found["LitRandom"] if flag.partition("=")[0] not in unused]
    for name in OF_CLASSES:
        found[name] = [*of_images, f"--lit_model_class={name}", "--train_episode_classes=4"]
    found["images"] = [*of_images, "--inner_loop_steps=2", "--test_inner_loop_steps=1", "--augment"]
    found["per-step batch norm"] = [*SINUSOID, "--lit_model_class=LitMAMLPlusPlus", *NORM]
    found = {name: [*flags, "--precision=64"] for name, flags in found.items()}
    return found | {"float32": [*SINUSOID, "--width=8", "--max_steps=1"]}


@pytest.fixture(scope="module")
def folders(runs, tmp_path_factory):
    """Each run's folder by one process, and by two processes on each of two nodes."""
    log_dir = tmp_path_factory.mktemp("logs")
    one, four = (
        {name: [*flags, f"--log_dir={log_dir / place / name}"] for name, flags in runs.items()}
        for place in ("one", "four")
    )
    run_all(one.values())
    (log_dir / "four.json").write_text(json.dumps(list(four.values())))
    command = [ROOT / "tests" / "many_runs.py", log_dir / "four.json"]
    with two_nodes(command, log_dir) as (nodes, said):
        assert [node.wait(300) for node in nodes] == [0, 0], said[0].read_text()[-3000:] + said[1].read_text()[-3000:]
    assert "inner steps" in said[0].read_text() and "inner steps" not in said[1].read_text()
    return {name: tuple(log_dir / place / name for place in ("one", "four")) for name in runs}


def the_run(folder):
    """The one run in a folder of runs."""
    ((run,),) = [list(experiment.iterdir()) for experiment in folder.iterdir()]
    assert run.name == "version_0"
    return run


def episodes(run):
    with (run / "test_episodes.csv").open() as file:
        return [(row["episode"], row["step"]) for row in csv.DictReader(file)]


NAMES = [*few_shot.lit_models.__all__, "images", "per-step batch norm", "float32"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_nodes_of_two_processes_are_one_process(name, folders, runs):
    """Five tasks over four processes: plain SGD moves all that is learned by the gradients' sum.

    Batch norm's running statistics are in the checkpoint too.
    """
    one, four = map(the_run, folders[name])
    state = parse(runs[name], "a run").modules()[1].double().state_dict()
    start = torch.cat([value.flatten() for value in state.values()])
    before, after = last_weights(one), last_weights(four)
    moved = (before - start).norm()
    assert moved == 0 if name == "LitRandom" else moved > 1e-4
    assert (after - before).norm() <= (1e-6 if name == "float32" else 1e-12) * moved
    assert episodes(four) == episodes(one)
    assert len(set(episodes(one))) == len(episodes(one)) >= 11
    results = [json.loads((run / "test_metrics.json").read_text()) for run in (one, four)]
    close = {"rel": 1e-5 if name == "float32" else 1e-9}
    for single, several in zip(*(result["per_step"] for result in results), strict=True):
        assert several["mean"] == pytest.approx(single["mean"], **close)
        assert several["ci95"] == pytest.approx(single["ci95"], **close)
    single, several = (list(csv.DictReader((run / "metrics.csv").open())) for run in (one, four))
    assert [list(row) for row in single] == [list(row) for row in several]
    for a, b in zip(single, several, strict=True):
        assert {k: float(v) for k, v in b.items() if v} == pytest.approx(
            {k: float(v) for k, v in a.items() if v}, rel=1e-5
        )


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_a_sentence(tmp_path):
    """One process of the second node is killed: the first node says which, and all end."""
    flags = ["--data_class=Sinusoid", "--gpus=0", "--width=8", "--batch_size=5", "--max_steps=1000000"]
    flags += ["--val_check_interval=20", "--val_episodes=4", f"--log_dir={tmp_path}"]
    last = tmp_path / "Sinusoid-LitMAML" / "version_0" / "checkpoints" / "last.ckpt"
    with two_nodes([ROOT / "training" / "run_experiment.py", *flags], tmp_path) as (nodes, said):
        until(last.is_file)
        victim = next(pid for pid in children(nodes[1].pid) if rank_of(pid) == 3)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        assert [node.wait(60) for node in nodes] == [1, 1]
    assert time.monotonic() - killed < 60
    text = said[0].read_text()
    assert f"Rank 3 of 4 (on {socket.gethostname()}) is gone: it was killed" in text
    assert f"The last good checkpoint is {last}." in text
    torch.load(last, weights_only=True)


@pytest.mark.slow
def test_a_process_that_is_gone_before_the_others_have_found_it(tmp_path):
    """The second process ends where it would join the first, which waits for it by then."""
    (tmp_path / "own.py").write_text(
        "import os\nfrom few_shot.models import SinusoidMLP\n\n"
        "class Gone(SinusoidMLP):\n    if os.environ.get('LOCAL_RANK') == '1':\n        os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, ROOT / "training" / "run_experiment.py", "--data_class=Sinusoid"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "--model_class=own.Gone", "--num_processes=2", "--gpus=0", f"--log_dir={tmp_path}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 1
    assert "Process 2 of this machine is gone: it was killed (SIGKILL). There is no checkpoint yet." in done.stderr


def until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children(pid):
    return map(int, (ROOT / f"/proc/{pid}/task/{pid}/children").read_text().split())


def rank_of(pid):
    variables = (ROOT / f"/proc/{pid}/environ").read_text().split("\0")
    return next(int(v.removeprefix("RANK=")) for v in variables if v.startswith("RANK="))


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4"}
TORCHRUN |= {"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "a job"}
SLURM |= {"SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}
BY_HAND = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "1"}


@pytest.fixture
def world(monkeypatch):
    """The world of a run with these flags, in this environment, on a node with so many GPUs."""
    monkeypatch.setattr(rank_zero_only, "rank", 0)

    def found(flags, variables=None, gpus=0):
        for name, value in (variables or {}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        experiment = parse(["--data_class=Sinusoid", "--batch_size=8", *flags], "a run")
        return experiment, world_of(experiment)

    return found


@pytest.mark.parametrize(
    ("flags", "variables", "gpus", "place", "devices"),
    [
        ([], {}, 0, (0, 1, 1), 1),
        (["--num_processes=3"], {}, 0, (0, 1, 3), 3),
        ([], TORCHRUN, 0, (3, 2, 2), 2),
        (["--num_processes=2", "--num_nodes=2"], TORCHRUN, 0, (3, 2, 2), 2),
        ([], TORCHRUN, 4, (3, 2, 2), [0, 1]),
        (["--gpus=1,3"], TORCHRUN, 4, (3, 2, 2), [1, 3]),
        ([], SLURM, 0, (2, 2, 2), 2),
        (["--num_nodes=2", "--num_processes=3"], BY_HAND, 0, (3, 2, 3), 3),
        (["--num_nodes=2"], BY_HAND, 8, (4, 2, 4), [0, 1, 2, 3]),  # eight tasks
    ],
)
def test_the_launcher_says_how_many_processes_there_are(world, flags, variables, gpus, place, devices):
    experiment, found = world(flags, variables, gpus)
    assert (found.rank, found.nodes, found.per_node) == place
    asked = processes(experiment, found, str)
    assert (asked["devices"], asked["num_nodes"]) == (devices, place[1])


@pytest.mark.parametrize(
    ("flags", "variables", "gpus", "sentence"),
    [
        (["--num_processes=3"], TORCHRUN, 0, "num_processes=3 asks for 3 on a node, and torchrun has started 2"),
        (["--num_nodes=3"], TORCHRUN, 0, "num_nodes=3, but torchrun uses 2"),
        (["--gpus=4"], TORCHRUN, 4, "gpus=4 asks for 4 on a node, and torchrun has started 2"),
        ([], TORCHRUN, 1, "torchrun has started 2 processes on a node where each sees 1 of the GPUs"),
        ([], TORCHRUN | {"WORLD_SIZE": "5"}, 0, "torchrun has started 5 processes on 2 nodes"),
        ([], TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, 0, "start as many on every node"),
        (["--num_processes=4"], SLURM, 0, "num_processes=4 asks for 4 on a node, and SLURM has started 2"),
        (["--num_nodes=2"], {}, 0, "MASTER_ADDR is not set"),
        (["--num_nodes=2"], BY_HAND | {"NODE_RANK": "2"}, 0, "NODE_RANK=2 is none of num_nodes=2"),
        (["--num_processes=2"], {}, 2, "num_processes=2 is for the CPU"),
    ],
)
def test_a_sum_that_does_not_fit_is_one_sentence(world, flags, variables, gpus, sentence):
    with pytest.raises(BadInput, match=sentence):
        world(flags, variables, gpus)
