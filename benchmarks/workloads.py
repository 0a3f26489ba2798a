"""What is timed: steps of published protocols, the same tasks and weights for everybody."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot.episodes import EpisodeBatch
from training.command_line import parse


@dataclass(frozen=True)
class Workload:
    """A step to time.

    Args:
        title: what it is, for the table.
        flags: the run it is a step of; the rest is the data set's protocol (``training/configs``).
        rounds: how often everybody takes a turn.
        test: whether it is a batch of test episodes, scored after the last inner step, instead of a training step.
        sinusoid: whether it is regression of sine waves; images otherwise.
        also: who takes part here alone.
    """

    title: str
    flags: tuple[str, ...]
    rounds: int
    test: bool = False
    sinusoid: bool = False
    also: tuple[str, ...] = ()


#: The other libraries adapt all of a model's parameters: so do we here.
ALL_ADAPT = ("--norm=batch", "--adapt_norm=true")
MINI_IMAGENET = "mini-ImageNet 5-way 1-shot, 4 tasks, 5 inner steps"
WORKLOADS = {
    "sinusoid": Workload(
        "sinusoid, K = 10, 25 tasks, 1 inner step",
        ("--data_class=Sinusoid",),
        40,
        sinusoid=True,
        also=("jax",),
    ),
    "omniglot": Workload("Omniglot 5-way 1-shot, 32 tasks, 1 inner step", ("--data_class=Omniglot", *ALL_ADAPT), 15),
    "mini_imagenet": Workload(
        MINI_IMAGENET,
        ("--data_class=MiniImagenet", *ALL_ADAPT),
        7,
        also=("ours, --tasks_at_once=4",),
    ),
    "mini_imagenet_first_order": Workload(
        f"{MINI_IMAGENET}, first order", ("--data_class=MiniImagenet", *ALL_ADAPT, "--first_order"), 7
    ),
    "cifar_fs": Workload("CIFAR-FS 5-way 1-shot, 4 tasks, 5 inner steps", ("--data_class=CifarFS", *ALL_ADAPT), 15),
    "mini_imagenet_test": Workload(
        "mini-ImageNet 5-way 1-shot test, 4 episodes, 10 inner steps",
        ("--data_class=MiniImagenet", *ALL_ADAPT),
        7,
        test=True,
    ),
}


@dataclass
class Problem:
    """A workload's tasks and initial weights, in one number type on one device."""

    lit_model: Any  # our algorithm around the model
    batch: EpisodeBatch
    loss: Callable[[Tensor, Tensor], Tensor]
    inner_lr: float
    steps: int
    first_order: bool
    test: bool

    @property
    def model(self) -> nn.Module:
        return self.lit_model.model

    def tasks(self) -> Iterator[tuple[Tensor, ...]]:
        """Each task's support_x, support_y, query_x, query_y."""
        return zip(*self.batch[:4], strict=True)

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def gradients(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]


def build(
    workload: Workload,
    extra_flags: tuple[str, ...] = (),
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    tasks: int | None = None,
) -> Problem:
    """The workload's problem: weights and images drawn from seed 0, whoever asks; ``tasks`` takes only the first few.

    Images are noise: a step takes as long on any others.
    """
    experiment = parse([*workload.flags, *extra_flags], "benchmark")
    data, lit_model = experiment.modules()
    split = "test" if workload.test else "train"
    if workload.sinusoid:
        batch = data.draw(split, 0, np.arange(data.batch_size))
    else:
        batch = _noise(data, data.batch_size, data.support_samples, data.queries(split))
    batch = EpisodeBatch(*(x[:tasks].to(device, dtype if x.is_floating_point() else x.dtype) for x in batch))
    arguments = experiment.arguments["lit_model_class"]
    return Problem(
        lit_model.to(device, dtype),
        batch,
        getattr(F, arguments["loss"]),
        arguments["inner_lr"],
        arguments["test_inner_loop_steps" if workload.test else "inner_loop_steps"],
        arguments["first_order"],
        workload.test,
    )


def _noise(data: Any, tasks: int, shots: int, queries: int) -> EpisodeBatch:
    """Episodes of images that hold nothing, in [0, 1]."""
    ways = data.episode_classes

    def part(samples: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(ways).repeat_interleave(samples).expand(tasks, -1)
        return torch.rand(tasks, ways * samples, *data.input_shape), labels.contiguous()

    return EpisodeBatch(*part(shots), *part(queries), torch.arange(tasks))
