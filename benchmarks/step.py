"""Time a meta-training step: ours and the peers' in turn, on the same tasks and weights, in one run.

python benchmarks/step.py                  # or `make bench`, which installs the peers first
python benchmarks/step.py --device=cuda

Gradients are checked equal before anything is timed. The result goes to ``benchmarks/results/step_<device>.json``, and
from there into the table of docs/speed.md (``benchmarks/speed_table.py``).
"""

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import environment, machine, peers, pipeline, speed_table
from benchmarks.race import race, turns
from benchmarks.workloads import WORKLOADS, Workload, build
from training.process import keep_freed_memory

sys.path.append(str(environment.FOLDER))  # the peers, behind everything else

#: By name: whose step; flags of ours; whether the process keeps freed memory, as ours does (``--keep_memory``).
RIVALS = {
    "ours": (peers.ours, (), True),
    "ours, --fast_path=off": (peers.ours, ("--fast_path=off",), True),
    "ours, --compile": (peers.ours, ("--compile",), True),
    "ours, --tasks_at_once=4": (peers.ours, ("--tasks_at_once=4",), True),
    "plain loop": (peers.plain_loop, (), False),
    "plain loop, memory kept": (peers.plain_loop, (), True),
    "learn2learn": (peers.learn2learn, (), False),
    "higher": (peers.higher, (), False),
    "jax": (peers.jax_jit, (), False),
}
#: On a GPU no memory is kept, nor are tasks computed a few at a time, so that they would be others once more.
ON_THE_CPU = {"plain loop, memory kept", "ours, --tasks_at_once=4"}
#: Who takes part where a workload says so.
BY_INVITATION = {"ours, --tasks_at_once=4", "jax"}
ORACLE = "plain loop"
PARTS = [*WORKLOADS, "loop", "episodes"]

#: How far a gradient may be from the plain loop's, relative: of two tasks in float64, and of all as they are timed.
TOLERANCE = {"error_64": 1e-8, "error_32": 0.05}


def enter(name: str, workload: Workload, device: str) -> tuple[dict[str, Any], Callable[[], float]]:
    """Make a rival, in its own process: its gradients, operations and memory, and what it does in a turn."""
    make, flags, keeps_memory = RIVALS[name]
    if keeps_memory and device == "cpu":
        keep_freed_memory()
    warnings.filterwarnings("error", message="--compile")  # that it runs as it is: not to be timed as compiled
    step = make(build(workload, flags, device))
    torch.backends.cudnn.benchmark = make is peers.ours  # as in a run
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False  # its rounding is not checked
    with machine.PeakMemory(device) as memory:
        result = step()
    torch.backends.cudnn.allow_tf32 = tf32
    facts = {"memory": memory.bytes, "result_32": _flat(result)}
    compiled = "--compile" in flags or make is peers.jax_jit
    if not compiled:
        with machine.OpCount() as count:
            step()
        facts["ops"] = count.ops
    if name == ORACLE:
        with FlopCounterMode(display=False) as flops:
            step()
        facts["flops"] = flops.get_total_flops()
    if "--compile" not in flags:  # the same code compiled for other sizes says nothing of this one
        facts["result_64"] = _flat(make(build(workload, flags, device, torch.float64, tasks=2))())
    once = min(machine.seconds(step, device) for _ in range(2 if workload.sinusoid else 1))
    times = max(1, math.ceil(0.1 / once))  # long enough to be about warm caches, as training is
    return facts, lambda: machine.seconds(step, device, times)


def on_device(rivals: Sequence[str], device: str) -> list[str]:
    """The rivals that are one of their own there."""
    return [name for name in rivals if device == "cpu" or name not in ON_THE_CPU]


def check(facts: dict[str, dict]) -> None:
    """Compare everybody's gradients (or losses) with the plain loop's; whoever is off is not timed."""
    if facts[ORACLE].get("result_64") is None:
        raise SystemExit(f"the plain loop failed: {facts[ORACLE]}")
    oracle = {bits: facts[ORACLE][f"result_{bits}"] for bits in (64, 32)}
    for fact in facts.values():
        for bits, right in oracle.items():
            result = fact.pop(f"result_{bits}", None)
            if result is None:
                continue
            error = float(np.linalg.norm(result - right) / np.linalg.norm(right))
            fact[f"error_{bits}"] = error
            if not error < TOLERANCE[f"error_{bits}"]:
                fact["error"] = f"another gradient than the plain loop's (relative error {error:.1e})"


def _flat(tensors: Sequence[Any]) -> np.ndarray:
    arrays = [t.detach().cpu().numpy() if isinstance(t, torch.Tensor) else np.asarray(t) for t in tensors]
    return np.concatenate([array.astype(np.float64).ravel() for array in arrays])


def time_steps(workload: Workload, rivals: Sequence[str], device: str, rounds: int | None) -> dict[str, Any]:
    """A workload's row: everybody's median step, quartiles, operations and memory."""
    failed = json.loads(environment.FAILURES.read_text()) if environment.FAILURES.exists() else {}
    rivals = [name for name in on_device(rivals, device) if name not in BY_INVITATION or name in workload.also]
    if device == "cpu" and not workload.sinusoid:  # convolutions run as they are there
        rivals = [name for name in rivals if name != "ours, --compile"]
    entries = {name: (enter, (name, workload, device)) for name in rivals}
    facts = race(
        {name: entry for name, entry in entries.items() if name not in failed}, rounds or workload.rounds, check
    )
    facts |= {name: {"error": f"does not install: {failed[name]}"} for name in entries if name in failed}
    return {"title": workload.title, "flops": facts[ORACLE].pop("flops"), "rivals": facts}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, write its result, print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="these parts only")
    parser.add_argument(
        "--rivals", choices=RIVALS, nargs="+", default=list(RIVALS), help="these, ours and the plain loop"
    )
    parser.add_argument("--rounds", type=turns, help="turns for everybody (default: each workload's own)")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/step_<device>.json")
    options = parser.parse_args(argv)
    os.environ["PYTHONWARNINGS"] = "ignore"
    result = {"machine": machine.description(options.device)}
    result["peaks"] = race({"peaks": (machine.peaks, (options.device,))}, rounds=0)["peaks"]
    result["steps"] = {}
    rivals = [name for name in RIVALS if name in {*options.rivals, "ours", ORACLE}]
    for part in options.only:
        print(WORKLOADS[part].title if part in WORKLOADS else part, file=sys.stderr, flush=True)
        if part in WORKLOADS:
            result["steps"][part] = time_steps(WORKLOADS[part], rivals, options.device, options.rounds)
        elif part == "loop":
            result["loop"] = race(pipeline.loop_rivals(options.device), options.rounds or 9)
        else:
            with pipeline.mini_imagenet_or_noise(environment.ROOT / "data") as (data_dir, images):
                facts = race(pipeline.episode_rivals(data_dir, options.device), options.rounds or 15)
            result["episodes"] = {"images": images, "rivals": facts}
    output = options.output or speed_table.RESULTS / f"step_{options.device}.json"
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(speed_table.table(output))


if __name__ == "__main__":
    main()
