"""Time an update of mini-ImageNet by one process, and by several that share its tasks.

python benchmarks/processes.py            # a minute

Runs as a user starts them, each process with one thread; noise in place of images, where they are not there. The
median time from one logged update to the next goes to ``benchmarks/results/processes_cpu.json``.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import machine
from benchmarks.environment import ROOT
from benchmarks.pipeline import mini_imagenet_or_noise
from benchmarks.results_table import RESULTS

FLAGS = ["--data_class=MiniImagenet", "--gpus=0", "--limit_val_batches=0", "--limit_test_batches=0"]
FLAGS += ["--log_every_n_steps=1", "--val_check_interval=1000"]


def seconds_an_update(processes: int, data_dir: str, updates: int) -> float:
    """Of a run with so many processes."""
    with tempfile.TemporaryDirectory() as scratch:
        flags = [*FLAGS, f"--data_dir={data_dir}", f"--max_steps={updates}", f"--num_processes={processes}"]
        command = [sys.executable, "training/run_experiment.py", *flags, f"--log_dir={scratch}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        (folder,) = Path(scratch).glob("*/version_0")
        events = EventAccumulator(str(folder))
        events.Reload()
        times = [event.wall_time for event in events.Scalars("train_loss")]
    return statistics.median(after - before for before, after in itertools.pairwise(times[1:]))  # the first warms up


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write down, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = [n for n in (1, 2, 4) if n <= cores]  # the meta-batch has four tasks
    parser.add_argument("--updates", type=int, default=12, help="updates of each run (default: 12)")
    options = parser.parse_args(argv)
    with mini_imagenet_or_noise(ROOT / "data") as (data_dir, _):
        found = {n: seconds_an_update(n, str(data_dir), options.updates) for n in counts}
    record = {"machine": machine.description("cpu"), "seconds": found}
    (RESULTS / "processes_cpu.json").write_text(json.dumps(record, indent=1) + "\n")
    print("| processes | an update | speed-up |\n|---|---|---|")
    for n, seconds in found.items():
        print(f"| {n} | {1e3 * seconds:.0f} ms | {found[1] / seconds:.2f}× |")


if __name__ == "__main__":
    main()
