"""Rivals take turns on one machine: each in a process of its own, never two at once.

A process of its own, because what one does to its process (an allocator's settings, a warmed cache, a compiled kernel)
must not reach another, and its peak memory is its own. Turns, because a machine's speed drifts: every rival meets the
same drift, so that ratios of medians hold.
"""

import argparse
import multiprocessing
import os
import re
import statistics
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.environment import ROOT

#: Makes a rival, in its process: what is to be known about it, and a function that takes a turn and says its seconds.
Entry = Callable[..., tuple[dict[str, Any], Callable[[], float]]]


def turns(text: str) -> int:
    """The value of ``--rounds``."""
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 2:
        raise argparse.ArgumentTypeError("it must be a whole number of at least 2: a spread needs two turns.")
    return int(text)


def race(
    entries: dict[str, tuple[Entry, tuple]], rounds: int, check: Callable[[dict[str, dict]], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Each rival's facts with its median seconds a turn, quartiles and rounds, or with an ``error`` that kept it out.

    Args:
        entries: by name, a picklable function that makes the rival and its arguments.
        rounds: turns for each.
        check: looks at everybody's facts before anything is timed; may give some an ``error``.
    """
    context = multiprocessing.get_context("forkserver")
    # The server imports the heavy packages once, and every rival starts from there. It knows only PYTHONPATH.
    context.set_forkserver_preload(["benchmarks.step"])
    os.environ["PYTHONPATH"] = str(ROOT)
    pipes, processes, facts = {}, [], {}
    try:
        for name, (entry, arguments) in entries.items():
            pipes[name], theirs = context.Pipe()
            process = context.Process(target=_take_part, args=(theirs, entry, arguments))
            process.start()
            theirs.close()
            processes.append(process)
            facts[name] = _answer(pipes[name])
        if check is not None:
            check(facts)
        running = [name for name in entries if "error" not in facts[name]]
        seconds: dict[str, list[float]] = {name: [] for name in running}
        for turn in range(rounds):
            first = turn % len(running) if running else 0
            for name in running[first:] + running[:first]:  # nobody always follows the same rival
                pipes[name].send("go")
                answer = _answer(pipes[name])
                facts[name] |= {k: v for k, v in answer.items() if k == "error"}
                seconds[name].append(answer.get("seconds", float("nan")))
    finally:
        for pipe in pipes.values():
            pipe.close()  # which a rival takes as the end
        for process in processes:
            process.join(timeout=20)
            process.kill()
    for name, taken in seconds.items():
        if len(taken) > 1 and "error" not in facts[name]:
            lower, median, upper = statistics.quantiles(taken, n=4, method="inclusive")
            facts[name] |= {"seconds": median, "quartiles": [lower, upper], "rounds": rounds}
    return facts


def _answer(pipe: Any) -> dict[str, Any]:
    try:
        return pipe.recv()
    except EOFError:
        return {"error": "its process died (out of memory?)"}


def _take_part(pipe: Any, entry: Entry, arguments: tuple) -> None:
    """A rival's process."""
    multiprocessing.set_start_method(None, force=True)  # a DataLoader's workers start as they do in a run
    try:
        facts, take_turn = entry(*arguments)
        pipe.send(facts)
        while pipe.recv() == "go":
            pipe.send({"seconds": take_turn()})
    except EOFError:
        pass  # the race is over
    except Exception as error:
        traceback.print_exc()
        pipe.send({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
