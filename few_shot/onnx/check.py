"""Whether the graph of an adaptation computes, in onnxruntime, what the learner computes in PyTorch."""

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from few_shot.errors import BadInput
from few_shot.lit_models.base import LitMetaLearner

#: How far a prediction may be from PyTorch's; as a part of it, where it is above 1.
TOLERANCE = 1e-4
#: Episodes of which one must agree. Where two numbers in a window of max-pooling are equal but for the rounding, the
#: larger one, and with it the gradient, is a matter of chance. Of PyTorch's own float32 and float64, as of onnxruntime:
#: at 84x84 pixels, every second episode's probabilities differ by more than the tolerance.
DRAWS = 10


class Episode(NamedTuple):
    """A task: support_x ``[S, ...]``, support_y ``[S]`` from 0 without a gap or ``[S, d]``, query_x ``[Q, ...]``."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor

    @property
    def classes(self) -> int | None:
        """How many there are; None for regression."""
        return None if self.support_y.is_floating_point() else int(self.support_y.max()) + 1


@dataclass
class Checked:
    """An episode on which graph and learner agree.

    Attributes:
        record: its sizes and the largest difference, as :data:`TOLERANCE` counts it; plain values.
        tensors: the graph's inputs by their names, and PyTorch's predictions, ``[K+1, Q, outputs]``.
        milliseconds: of one run of the graph, with one thread.
    """

    record: dict[str, Any]
    tensors: dict[str, Tensor]
    milliseconds: float

    @property
    def difference(self) -> float:
        return self.record["difference"]


class Judge:
    """Compares a graph with its learner.

    Args:
        learner: the learner.
        steps: inner steps, K.
        graph: the file of its adaptation's graph.
        inner_lr: what the graph takes for the learner's own rates; None where it takes none.
    """

    def __init__(self, learner: LitMetaLearner, steps: int, graph: Path, inner_lr: float | None) -> None:
        self.session = _session(graph)
        self.exact = copy.deepcopy(learner).double()  # so that one side alone rounds
        self.steps, self.inner_lr = steps, inner_lr

    def check(self, draws: Sequence[Episode]) -> Checked:
        """The first of some episodes of the same size on which the two agree.

        Raises:
            BadInput: there is none.
        """
        least = float("inf")
        for episode in draws:
            wanted = self.of_pytorch(episode)
            difference = _difference(self.of_graph(episode), wanted)
            if difference <= TOLERANCE:  # false for NaN too
                tensors = {name: torch.from_numpy(x) for name, x in self.feed(episode).items()}
                tensors["predictions"] = torch.from_numpy(wanted.astype(np.float32))
                record = {
                    "support": len(episode.support_x),
                    "query": len(episode.query_x),
                    "classes": episode.classes,
                    "difference": difference,
                }
                return Checked(record, tensors, self._milliseconds(episode))
            least = min(least, difference)
        raise BadInput(
            f"{type(self.exact).__name__} of {type(self.exact.model).__name__} is not exported: after {self.steps} "
            f"inner steps the graph's predictions differ from PyTorch's by {least:.1e} at least, and "
            f"{TOLERANCE:.0e} is allowed. Try fewer steps."
        )

    def of_pytorch(self, episode: Episode) -> NDArray:
        """The learner's predictions ``[K+1, Q, outputs]`` in float64: probabilities of classes, or numbers."""
        x, y, q = (t.double() if t.is_floating_point() else t for t in episode)
        each = []
        for step in range(self.steps + 1):
            with torch.no_grad():
                outputs = self.exact.adapted_model(x, y, step, episode.classes)(q)
            each.append(outputs if episode.classes is None else outputs.softmax(-1))
        predictions = torch.stack(each)
        missing = self.session.get_outputs()[0].shape[-1] - predictions.shape[-1]  # outputs of no class
        return torch.nn.functional.pad(predictions, (0, missing)).numpy()

    def of_graph(self, episode: Episode) -> NDArray:
        """The graph's predictions, likewise."""
        return self.session.run(None, self.feed(episode))[0]

    def feed(self, episode: Episode) -> dict[str, NDArray]:
        """An episode as the graph's inputs, by their names."""
        rate = {} if self.inner_lr is None else {"inner_lr": np.array(self.inner_lr, dtype=np.float32)}
        return {name: tensor.numpy() for name, tensor in episode._asdict().items()} | rate

    def _milliseconds(self, episode: Episode) -> float:
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            self.of_graph(episode)
            seconds.append(time.perf_counter() - started)
        return 1000 * statistics.median(seconds)


def check_network(learner: LitMetaLearner, graph: Path, x: Tensor) -> None:
    """See to it that the graph of a learner's network computes what the network does.

    Args:
        learner: the learner.
        graph: the file of its network's graph.
        x: inputs ``[n, ...]``.

    Raises:
        BadInput: it computes something else.
    """
    weights = {name: w.numpy() for name, w in learner.state_dict().items() if name.startswith("model.")}
    with torch.no_grad():
        wanted = copy.deepcopy(learner).double()(x.double()).numpy()
    difference = _difference(_session(graph).run(None, {**weights, "x": x.numpy()})[0], wanted)
    if not difference <= TOLERANCE:
        raise BadInput(
            f"{type(learner.model).__name__} is not exported: the outputs of the network's graph differ from PyTorch's "
            f"by {difference:.1e}, and {TOLERANCE:.0e} is allowed."
        )


def _session(graph: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options)


def _difference(found: NDArray, wanted: NDArray) -> float:
    """The largest difference; of a number above 1, as a part of it."""
    return float((np.abs(found - wanted) / np.maximum(1, np.abs(wanted))).max())


def draw(seed: int, shape: Sequence[int], shots: Sequence[int] | int, outputs: int, queries: int) -> Episode:
    """Draw an episode: classes whose samples resemble each other, or numbers.

    Args:
        seed: drives it.
        shape: of one sample. Pictures have values from 0 to 1, other inputs from -5 to 5.
        shots: of classes the number of each one's support samples; of regression, how many there are.
        outputs: how many numbers a target has in regression.
        queries: query samples.
    """
    dice = torch.Generator().manual_seed(seed)

    def values(n: int) -> Tensor:
        x = torch.rand(n, *shape, generator=dice)
        return x if len(shape) == 3 else 10 * x - 5

    if isinstance(shots, int):
        return Episode(values(shots), 2 * torch.randn(shots, outputs, generator=dice), values(queries))
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    middles = values(len(shots))
    of_queries = torch.arange(queries) % len(shots)
    return Episode(
        (2 * middles[labels] + values(len(labels))) / 3,
        labels,
        (2 * middles[of_queries] + values(queries)) / 3,
    )
