"""What learners from prototypes share: they take classes alone, and any number of them."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from few_shot.adaptation import head_name, predictor
from few_shot.episodes import IGNORED
from few_shot.errors import BadInput
from few_shot.fast_path.folded import folded_predictor
from few_shot.lit_models.base import LitMetaLearner
from few_shot.metrics import METRICS


class LitWithoutHead(LitMetaLearner):
    """A learner whose model is the body alone: the head is taken off.

    The head is the model's last module with parameters of its own.

    Raises:
        BadInput: the task is not classification, or the model is all head.
    """

    fixed_ways = False

    def __init__(self, model: nn.Module, **outer) -> None:
        super().__init__(model, **outer)
        self._refuse_numbers()
        self.head = head_name(self.model)
        if not self.head:
            raise BadInput(f"{type(self).__name__} needs a model's body, and {type(model).__name__} has only a head.")
        self.model.set_submodule(self.head, nn.Identity())
        self.model.__dict__["changed_by"] = type(self).__name__

    @property
    def is_of_classes(self) -> bool:
        return True

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._refuse_numbers()

    def ways(self, support_y: Tensor) -> int:
        """The number of classes in each task, from their labels ``[T, n]``."""
        if (known := self.known_ways(support_y)) is not None:
            return known
        classes = int(support_y.max()) + 1
        if int(members_of(support_y, classes).sum(1).min()) == 0:
            raise BadInput(
                "A task has a label without a support sample: label the N classes of a task from 0 to N-1, and give "
                "each at least one."
            )
        return classes

    def embed(self, x: Tensor) -> Tensor:
        """The embeddings ``[T, n, features]`` of ``x`` ``[T, n, ...]`` by the body's own weights."""
        layers = self.folded_layers
        by = predictor(self.model) if layers is None else folded_predictor(self.model, layers)
        embedded = by({}, x)
        return embedded.to(next(self.model.parameters(), embedded).dtype)  # exact from here on, autocast or not

    def _refuse_numbers(self) -> None:
        if self.metric is not None and not METRICS[self.metric].of_classes:
            raise BadInput(f"{type(self).__name__} needs classes, and this data set has none.")


def members_of(labels: Tensor, classes: int) -> Tensor:
    """Whether each sample is of each class, 0 or 1, ``[T, n, N]``; one with the label ``IGNORED`` is of none."""
    counts = labels != IGNORED
    return F.one_hot(labels.where(counts, 0), classes) * counts[..., None]


def prototypes_of(embedded: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean embedding of each class, ``[T, N, f]``, of embeddings ``[T, n, f]`` with labels ``[T, n]``."""
    member = members_of(labels, classes).to(embedded.dtype)
    with exact(embedded.device.type):
        return member.mT @ embedded / member.sum(1)[..., None]


def exact(device: str) -> AbstractContextManager:
    """Autocast off: it would round what a product sums. PyTorch's meta device has none."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
