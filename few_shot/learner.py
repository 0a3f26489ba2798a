"""Meta-learning from Python, in the manner of scikit-learn: fit, adapt, predict, score, save and load.

A learner is a dataclass whose fields are the arguments of its algorithm in ``few_shot.lit_models``, which does the work.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from few_shot import checkpoint
from few_shot.adapted import Adapted
from few_shot.errors import BadInput, at_least
from few_shot.evaluation import EpisodeResults, mean_and_interval_per_step
from few_shot.lit_models import (
    LitANIL,
    LitBOIL,
    LitIMAML,
    LitMAML,
    LitMAMLPlusPlus,
    LitMetaSGD,
    LitProtoNet,
    LitReptile,
)
from few_shot.lit_models.base import LitMetaLearner
from few_shot.samples import Inputs, encode, input_shape_of


@dataclass
class StepScore:
    """The mean over episodes after a number of inner steps, with its 95 % confidence interval."""

    step: int
    mean: float | None
    ci95: float | None


@dataclass
class Score:
    """What a learner achieves on test episodes.

    Attributes:
        metric: accuracy, from 0 to 1, or mse.
        mean: after the last inner step; None if it is undefined.
        ci95: half the width of its 95 % confidence interval.
        per_step: the same after each inner step, from 0.
        diverged: episodes whose loss left all bounds; they count 0 in an accuracy and are left out of an error.
        results: each episode's loss and metric.
    """

    metric: str
    mean: float | None
    ci95: float | None
    per_step: list[StepScore]
    diverged: int
    results: EpisodeResults = field(repr=False)


@dataclass(eq=False)
class Learner:
    """What all learners share: a network, and how the outer loop trains it.

    Args:
        model: any module. It is trained in place.
        loss: a function of torch.nn.functional by name, or any by its dotted name; None follows the data.
        metric: accuracy or mse; None follows the data.
        transductive: whether the query samples of a test episode see each other through batch norm in :meth:`score`,
            as in the papers.
        outer_optimizer: the optimiser of the outer loop.
        outer_lr: its learning rate.
        outer_schedule: keep the outer rate, or let it fall to zero along a cosine.
        tasks_at_once: tasks in memory at the same time; None for as many as is fast.
        weight_decay: penalty on the squared weights in the outer loop.
        gradient_clip_val: bound on the outer gradient; None for no bound.
        gradient_clip_algorithm: bound the gradient's norm, or each of its elements (value).
    """

    lit_class: ClassVar[type[LitMetaLearner]]

    model: nn.Module
    _: KW_ONLY
    loss: str | None = None
    metric: Literal["accuracy", "mse"] | None = None
    transductive: bool = True
    outer_optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    outer_lr: float = 1e-3
    outer_schedule: Literal["constant", "cosine"] = "constant"
    tasks_at_once: int | None = None
    weight_decay: float = 0.0
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"

    def __post_init__(self) -> None:
        arguments = {f.name: getattr(self, f.name) for f in fields(self)}
        self.lit_model = self.lit_class(**arguments)
        self._data: Mapping[str, Any] | None = None

    def fit(
        self,
        data: pl.LightningDataModule | Iterable,
        *,
        max_steps: int,
        trainer: pl.Trainer | None = None,
    ) -> Self:
        """Meta-train; a second call goes on from the weights of the first.

        Args:
            data: a data module of few_shot or of yours, or any iterable of episode batches
                (:class:`few_shot.episodes.EpisodeBatch`), which is gone through again and again.
            max_steps: outer updates.
            trainer: a Trainer of your own, for several GPUs, loggers or checkpoints; its max_steps counts then.

        Raises:
            BadInput: the data or the Trainer cannot be used.
            TrainingDiverged: the loss is no longer finite.
        """
        at_least(1, max_steps, "max_steps")
        if trainer is None:
            trainer = _quiet_trainer(max_steps=max_steps, max_epochs=-1, limit_val_batches=0)
        if isinstance(data, pl.LightningDataModule):
            trainer.fit(self.lit_model, datamodule=data)
            self._data = checkpoint.describe_data(data)
        else:
            trainer.fit(self.lit_model, train_dataloaders=data)
        self.lit_model.eval()
        return self

    def score(self, data: pl.LightningDataModule | Iterable, *, steps: int | None = None) -> Score:
        """Adapt to each test episode, and judge the predictions on its query samples.

        Args:
            data: a data module, whose test episodes are taken, or an iterable of episode batches.
            steps: inner steps; None for test_inner_loop_steps.
        """
        lit_model: Any = copy.copy(self.lit_model) if steps is None else self._with_steps(steps)
        trainer = _quiet_trainer()
        where = {"datamodule": data} if isinstance(data, pl.LightningDataModule) else {"dataloaders": data}
        trainer.test(lit_model, **where, verbose=False)
        results = lit_model.results
        metric = lit_model.objective.metric_name or lit_model.metric
        per_step = [StepScore(*row) for row in mean_and_interval_per_step(results, metric)]
        last = per_step[-1]
        return Score(metric, last.mean, last.ci95, per_step, int(results.diverged.sum()), results)

    def adapt(self, x: Any, y: Any, *, steps: int | None = None, transductive: bool = False) -> Adapted:
        """Adapt to one task from a few labelled samples; the learner stays as it is.

        Args:
            x: the samples. Tensors, arrays or lists of numbers ``[n, ...]``; for pictures also their paths or PIL
                images, one or many. Pictures are prepared as those of the training were.
            y: a label of any kind for each sample (classes may have different numbers of samples), or, for
                regression, targets ``[n]`` or ``[n, d]``.
            steps: inner steps; None for test_inner_loop_steps.
            transductive: whether samples that are predicted together see each other through batch norm.

        Raises:
            BadInput: the samples or labels cannot be used, or there are more classes than the model has outputs.
        """
        like = next(self.lit_model.parameters())
        inputs = self._inputs()
        support_x = inputs.tensor(x, like)
        metric = self.lit_model.metric
        classes, support_y = encode(y, None if metric is None else metric == "accuracy")
        if len(support_x) != len(support_y):
            raise BadInput(f"There are {len(support_x)} samples x, and {len(support_y)} labels y.")
        support_y = support_y.to(like.device, like.dtype if classes is None else torch.int64)
        steps = getattr(self, "test_inner_loop_steps", 0) if steps is None else at_least(0, steps, "steps")
        model = self.lit_model.adapted_model(support_x, support_y, steps, None if classes is None else len(classes))
        if not transductive:
            fix_norms(model, support_x)
        flat = classes is None and torch.as_tensor(y).dim() == 1
        return Adapted(model.eval(), inputs, classes, like, flat, transductive)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint with all that is needed to use the learner: see :func:`load`."""
        checkpoint.save(self.lit_model, self._data, path)
