"""What to do when a GPU has not enough memory for an update: the flags that help, and what each would save."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from few_shot.episodes import EpisodeBatch
from few_shot.private_parts import storage_of


class OutOfMemory(RuntimeError):
    """The GPU has not enough memory. The message is a sentence or two with the flags that help."""


@contextmanager
def explained(lit_model: Any, data: Any, processes: int) -> Iterator[None]:
    """Explain in here that memory has run out. Nothing more is done with the algorithm then.

    Args:
        processes: how many share the tasks of an update.

    Raises:
        OutOfMemory: it has.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        asked = str(error).partition(". ")[0]
        what = "A smaller --batch_size needs less in a test."
        if lit_model.training:
            try:
                what = advice(lit_model, data, -(-data.batch_size // processes))
            except Exception:  # the estimate runs the algorithm, which may be the user's own, on a strange device
                what = "--tasks_at_once=1, --checkpoint_inner_loop, --first_order and --precision=bf16 take less."
        raise OutOfMemory(f"{asked}. {what}") from error


def advice(lit_model: Any, data: Any, tasks: int) -> str:
    """A sentence with the flags that would help, and what an update's graph would take with each."""
    lit_model = lit_model.to("meta")
    batch = batch_on_meta(data, tasks, lit_model.dtype)
    now = graph_bytes(lit_model, batch.chunks(lit_model.tasks_at_once or tasks)[0])
    found = {}
    if min(tasks, lit_model.tasks_at_once or tasks) > 1:
        found["--tasks_at_once=1"] = graph_bytes(lit_model, batch.chunks(1)[0])
    for flag in ("checkpoint_inner_loop", "first_order"):
        if getattr(lit_model, flag, True) or flag in lit_model.unused:
            continue
        setattr(lit_model, flag, True)
        found[f"--{flag}"] = graph_bytes(lit_model, batch.chunks(lit_model.tasks_at_once or tasks)[0])
        setattr(lit_model, flag, False)
    takes = [f"{_size(size)} with {flag}" for flag, size in found.items() if size < 0.9 * now]
    takes.append("half of any of these with --precision=bf16")
    return f"The graph of an update takes about {_size(now)}; it would take about {', '.join(takes)}."


def batch_on_meta(data: Any, tasks: int, dtype: torch.dtype) -> EpisodeBatch:
    """Training tasks of the data module's shapes, without numbers."""
    drawn = data.draw("train", data.seed, np.arange(tasks))

    def inputs(like: Tensor) -> Tensor:
        return torch.empty(*like.shape[:2], *data.input_shape, dtype=dtype, device="meta")

    def targets(y: Tensor) -> Tensor:
        return torch.empty(y.shape, dtype=dtype if y.is_floating_point() else y.dtype, device="meta")

    index = torch.arange(tasks, device="meta")
    support_x, support_y, query_x, query_y, _ = drawn
    return EpisodeBatch(inputs(support_x), targets(support_y), inputs(query_x), targets(query_y), index)


class _Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def graph_bytes(lit_model: Any, batch: EpisodeBatch) -> int:
    """What the graph of the tasks' losses holds on to when the outer backward pass begins."""
    held: WeakSet[_Held] = WeakSet()

    def hold(tensor: Tensor) -> _Held:
        held.add(found := _Held(tensor))
        return found

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda found: found.tensor):
        loss = lit_model.outer_scores(batch).loss
    storages = {storage_of(found.tensor): found.tensor.untyped_storage().nbytes() for found in held}
    del loss
    return sum(storages.values())


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB"
