"""Meta-learning from Python, in the manner of scikit-learn: fit, adapt, predict, score, save and load.

A learner is a dataclass. Its fields are the arguments of its algorithm in ``few_shot.lit_models``, which does the work.
"""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor, nn

from few_shot.adapted import Adapted, enough_for_batch_norm
from few_shot.checkpoint import find_checkpoint, load_learner, save_learner
from few_shot.data.base import EpisodeDataModule
from few_shot.errors import BadInput, at_least
from few_shot.evaluation import EpisodeResults
from few_shot.export import Exported, export
from few_shot.files import shortened
from few_shot.layer_errors import Misfit
from few_shot.lit_models import (
    LitANIL,
    LitBOIL,
    LitIMAML,
    LitMAML,
    LitMAMLPlusPlus,
    LitMetaSGD,
    LitProtoMAML,
    LitProtoNet,
    LitReptile,
)
from few_shot.lit_models.base import LitMetaLearner, OuterSchedule
from few_shot.lit_models.objective import loss_name
from few_shot.lit_models.trainer_settings import apart_from_a_training, one_device, refuse_copies
from few_shot.plots import draw_fit
from few_shot.samples import Inputs, encode, input_shape_of, takes_symbols
from few_shot.sheets import can_draw_sheet, draw_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        model: any module. It is trained in place, and belongs to this learner.
        loss: a function that can be imported, or its name: one of torch.nn.functional, or any by its dotted name. None
            follows the data.
        metric: accuracy or mse; None follows the data.
        transductive: whether the query samples of a test episode see each other through batch norm in :meth:`score`,
            as in the papers.
        outer_optimizer: the optimiser of the outer loop.
        outer_lr: its learning rate.
        outer_schedule: keep the outer rate, let it fall to zero along a cosine, or halve it after each tenth.
        tasks_at_once: tasks in memory at the same time; None for as many as is fast.
        fast_path: whether a chain of common layers computes its tasks folded into channels.
        weight_decay: penalty on the squared weights in the outer loop.
        gradient_clip_val: bound on the outer gradient; None for no bound.
        gradient_clip_algorithm: bound the gradient's norm, or each of its elements (value).
        max_skipped_updates: updates in a row that are skipped with a warning because their loss or gradient is not
            finite; one more stops the training.
    """

    lit_class: ClassVar[type[LitMetaLearner]]

    model: nn.Module
    _: KW_ONLY
    loss: str | Callable | None = None
    metric: Literal["accuracy", "mse"] | None = None
    transductive: bool = True
    outer_optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    outer_lr: float = 1e-3
    outer_schedule: OuterSchedule = "constant"
    tasks_at_once: int | None = None
    fast_path: bool = True
    weight_decay: float = 0.0
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    max_skipped_updates: int = 0

    def __post_init__(self) -> None:
        self.loss = loss_name(self.loss)
        self.lit_model = self.lit_class(**{f.name: getattr(self, f.name) for f in fields(self)}).eval()

    def __setattr__(self, name: str, value: Any) -> None:
        """An argument cannot be changed once the learner is built: it would have no effect."""
        if "lit_model" in self.__dict__ and name in {f.name for f in fields(self)}:
            raise BadInput(f"{name} cannot be changed later: give it when you build the {type(self).__name__}.")
        super().__setattr__(name, value)

    def fit(
        self,
        data: pl.LightningDataModule | Iterable,
        *,
        max_steps: int = 1000,
        trainer: pl.Trainer | None = None,
        verbose: bool = True,
    ) -> Self:
        """Meta-train; a second call goes on from the weights of the first, with other tasks.

        The outer optimiser and its schedule start anew with each call. A learner that was loaded begins with the first
        tasks again, and MAML++ with the loss of its first updates.

        Args:
            data: a data module of few_shot or of yours, or any iterable of episode batches
                (:class:`few_shot.episodes.EpisodeBatch`), which is gone through again and again, such as a list.
            max_steps: outer updates.
            trainer: a Trainer of your own, for several GPUs, loggers or checkpoints. Its max_steps and its progress bar
                count then.
            verbose: whether to show a progress bar.

        Raises:
            BadInput: the data or the Trainer cannot be used.
            TrainingDiverged: the loss or its gradient is not finite, in more updates in a row than may be skipped.
        """
        at_least(1, max_steps, "max_steps")
        with _no_advice(), _interruptible(), self._told_of_sizes(data):
            if trainer is None:
                trainer = _trainer(verbose, max_steps=max_steps, max_epochs=-1, limit_val_batches=0)
            elif not isinstance(trainer, pl.Trainer):
                raise BadInput(f"trainer={shortened(trainer)} is no pytorch_lightning.Trainer.")
            refuse_copies(trainer)
            self._count_updates(-trainer.global_step, data)  # which is not 0 where a Trainer goes on
            try:
                with self.lit_model.as_before_if_it_fails(trainer):
                    trainer.fit(self.lit_model, **_as_argument(data, "train_dataloaders"))
            finally:
                self._count_updates(trainer.global_step, data)
                self.lit_model.eval()
        return self

    def score(
        self, data: pl.LightningDataModule | Iterable, *, steps: int | None = None, verbose: bool = True
    ) -> Score:
        """Adapt to each test episode, and judge the predictions on its query samples.

        Args:
            data: a data module, whose test episodes are taken, or an iterable of episode batches.
            steps: inner steps; None for test_inner_loop_steps.
            verbose: whether to show a progress bar.

        Raises:
            BadInput: the data cannot be used, or holds no test episode; or the learner has no inner steps.
        """
        lit_model = self.lit_model
        its_own = lit_model.test_inner_loop_steps
        lit_model.test_inner_loop_steps = lit_model.steps_or_own(steps)
        try:
            with _no_advice(), _interruptible(), self._told_of_sizes(data), apart_from_a_training(lit_model, data):
                _trainer(verbose).test(lit_model, **_as_argument(data, "dataloaders"), verbose=False)
        finally:
            lit_model.test_inner_loop_steps = its_own
        results, metric = lit_model.results, lit_model.metric_of_results
        if results is None or metric is None:
            raise BadInput("The data holds no test episode.")
        per_step = [StepScore(step, *results.mean_metric(metric, i)) for i, step in enumerate(results.steps)]
        return Score(metric, per_step[-1].mean, per_step[-1].ci95, per_step, int(results.diverged.sum()), results)

    def adapt(self, x: Any, y: Any, *, steps: int | None = None, transductive: bool = False) -> Adapted:
        """Adapt to one task from a few labelled samples; the learner stays as it is.

        Args:
            x: the samples: tensors, arrays or lists of numbers ``[n, ...]``; of pictures also their paths or PIL
                images, one or many. Pictures are prepared as those of the training were.
            y: a label of any kind for each sample (classes may have different numbers of samples), or, for
                regression, targets ``[n]`` or ``[n, d]``.
            steps: inner steps; None for test_inner_loop_steps.
            transductive: whether samples that are predicted together see each other through batch norm.

        Raises:
            BadInput: the samples or labels cannot be used, there are none, there are more classes than the model has
                outputs, or the learner has no inner steps.
        """
        lit_model = self.lit_model
        inputs, like = self.inputs, self._like
        support_x = inputs.tensor(x, like)
        classes, support_y = encode(y, lit_model.is_of_classes)
        if len(support_x) != len(support_y):
            raise BadInput(f"There are {len(support_x)} samples x and {len(support_y)} labels y: give each sample one.")
        if len(support_x) == 0:
            raise BadInput("There are no samples x to adapt to: give one at least.")
        support_y = support_y.to(like.device, like.dtype if classes is None else torch.int64)
        steps = lit_model.steps_or_own(steps)
        number = None if classes is None else len(classes)
        with enough_for_batch_norm():
            model = lit_model.adapted_model(support_x, support_y, steps, number, transductive)
        return Adapted(model, inputs, classes, like, flat=np.ndim(y) == 1, transductive=transductive)

    def plot(
        self, data: pl.LightningDataModule, *, episode: int = 0, steps: int | Sequence[int] | None = None
    ) -> "Figure":
        """Draw how the learner adapts to one test task, a curve or pictures; ``.savefig(path)`` writes it.

        Args:
            data: the data module of the tasks.
            episode: the number of the test task, from 0.
            steps: the inner steps after which a curve is drawn, 0 for before adaptation; None for 0, 1 and 10. One
                number is that and 0. Pictures are shown before and after the largest of them; None for
                test_inner_loop_steps.

        Raises:
            BadInput: the tasks are neither, the learner has no inner loop for a curve, or matplotlib is missing.
        """
        at_least(0, episode, "episode")
        if not isinstance(data, EpisodeDataModule):
            raise BadInput(
                f"The tasks of a {type(data).__name__} cannot be drawn: give a data module of few_shot, or one derived "
                "from it."
            )
        if steps is not None:
            steps = [at_least(0, step, "steps") for step in (steps if isinstance(steps, Iterable) else (0, steps))]
        data.prepare_data()
        data.setup("test")
        if can_draw_sheet(data):
            return draw_sheet(self.lit_model, data, episode, max(steps) if steps else None)
        return draw_fit(self.lit_model, data, episode, steps or (0, 1, 10))

    def _count_updates(self, updates: int, data: Any) -> None:
        """Take down so many outer updates more."""
        self.lit_model.updates_before += updates
        self.lit_model.episodes_before += updates * (data.batch_size if isinstance(data, EpisodeDataModule) else 0)

    @contextmanager
    def _told_of_sizes(self, data: Any) -> Iterator[None]:
        """A layer that does not fit in here is explained by the data's sizes, if the model was built for others."""
        try:
            yield
        except Misfit as error:
            built_for = input_shape_of(self.lit_model.model)
            given = getattr(data, "input_shape", None) if isinstance(data, pl.LightningDataModule) else None
            if built_for is None or given is None or built_for == tuple(given):
                raise
            raise BadInput(
                f"The model was built for inputs {list(built_for)}, and the data gives {list(given)}: build it with "
                f"input_shape={tuple(given)}."
            ) from error

    @property
    def _like(self) -> Tensor:
        """A tensor of the type and on the device of the model's weights."""
        return next(self.lit_model.parameters(), torch.empty(0))

    @property
    def inputs(self) -> Inputs:
        """How what a person gives becomes the model's inputs."""
        facts = self.lit_model.data_facts or {}
        shape = facts.get("input_shape") or input_shape_of(self.lit_model.model)
        return Inputs(shape, facts.get("preprocessing"), takes_symbols(self.lit_model.model))

    def read(self, x: Any) -> Tensor:
        """Samples ``[n, ...]`` as the model takes them. :meth:`adapt` and the adapted model take these too.

        They also read paths by themselves: this is for who wants to know which of many cannot be read.

        Args:
            x: samples, as :meth:`adapt` takes them.

        Raises:
            BadInput: the samples cannot be used; BadPicture for a file that cannot be read, or is no picture.
        """
        return self.inputs.tensor(x, self._like)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint that holds all that is needed to use the learner; :func:`load` reads it.

        Args:
            path: the file. Its folder is made if it is not there. One that ends in .safetensors is of that format.

        Raises:
            BadInput: the file cannot be written.
        """
        save_learner(self.lit_model, path)

    def export(self, folder: str | Path, *, steps: int | None = None) -> Exported:
        """Write the whole adaptation as one ONNX graph, for other languages: see :func:`few_shot.export.export`.

        Args:
            folder: where to write.
            steps: inner steps in the graph; None for test_inner_loop_steps.

        Raises:
            BadInput: the learner cannot be exported, or the folder cannot be written.
        """
        return export(self.lit_model, folder, steps)


@dataclass(eq=False)
class _InnerLoop(Learner):
    """What all learners with an inner loop share.

    Args:
        inner_loop_steps: inner steps in training.
        test_inner_loop_steps: inner steps in :meth:`score` and :meth:`adapt`, unless they are told otherwise.
        inner_optimizer: the rule of an inner step.
    """

    _: KW_ONLY
    inner_loop_steps: int = 5
    test_inner_loop_steps: int = 10
    inner_optimizer: Literal["sgd", "momentum", "adam"] = "sgd"


@dataclass(eq=False)
class MAML(_InnerLoop):
    """MAML (Finn et al. 2017), second order; with ``first_order``, FOMAML.

    Args:
        inner_lr: learning rate of the inner loop.
        adapt_norm: whether the inner loop adapts normalisation layers' scale and shift too.
        first_order: whether inner gradients count as constants in the outer gradient.
        checkpoint_inner_loop: whether the backward pass computes inner steps again, instead of keeping them all.
    """

    lit_class: ClassVar[type[LitMetaLearner]] = LitMAML
    _: KW_ONLY
    inner_lr: float = 0.01
    adapt_norm: bool = True
    first_order: bool = False
    checkpoint_inner_loop: bool = False


@dataclass(eq=False)
class ANIL(MAML):
    """MAML whose inner loop adapts the head alone (Raghu et al. 2020)."""

    lit_class: ClassVar[type[LitMetaLearner]] = LitANIL


@dataclass(eq=False)
class BOIL(MAML):
    """MAML whose inner loop adapts all but the head (Oh et al. 2021)."""

    lit_class: ClassVar[type[LitMetaLearner]] = LitBOIL


@dataclass(eq=False)
class MetaSGD(_InnerLoop):
    """MAML with a learned inner rate for every element of every parameter (Li et al. 2017).

    Args:
        inner_lr_min: least initial inner rate.
        inner_lr_max: greatest initial inner rate.
        adapt_norm: whether the inner loop adapts normalisation layers' scale and shift too.
        first_order: whether inner gradients count as constants in the outer gradient.
        checkpoint_inner_loop: whether the backward pass computes inner steps again, instead of keeping them all.
    """

    lit_class: ClassVar[type[LitMetaLearner]] = LitMetaSGD
    _: KW_ONLY
    inner_loop_steps: int = 1
    inner_lr_min: float = 0.005
    inner_lr_max: float = 0.1
    adapt_norm: bool = True
    first_order: bool = False
    checkpoint_inner_loop: bool = False


@dataclass(eq=False)
class MAMLPlusPlus(MAML):
    """MAML++ (Antoniou et al. 2019): six changes to MAML, each a switch.

    Args:
        transductive: None is True without per-step statistics, and False with them.
        multi_step_loss_updates: outer updates over which the losses of the earlier inner steps fade out.
        learned_rates: whether each parameter's inner rate is learned for each step.
        per_step_bn_statistics: whether batch norm keeps running statistics for each step, and uses them in the test.
        per_step_bn_weights: whether batch norm's scale and shift are learned for each step by the outer loop.
        first_order_updates: outer updates at the beginning that are first order.
    """

    lit_class: ClassVar[type[LitMetaLearner]] = LitMAMLPlusPlus
    _: KW_ONLY
    transductive: bool | None = None  # type: ignore[assignment]
    outer_schedule: OuterSchedule = "cosine"
    multi_step_loss_updates: int = 5000
    learned_rates: bool = True
    per_step_bn_statistics: bool = True
    per_step_bn_weights: bool = True
    first_order_updates: int = 0


@dataclass(eq=False)
class IMAML(_InnerLoop):
    """iMAML (Rajeswaran et al. 2019): the implicit gradient of an inner loop that stays near the initial weights.

    Args:
        inner_lr: learning rate of the inner loop.
        proximal_strength: the pull back to the initial weights, λ.
        cg_steps: conjugate gradient steps.
    """

    lit_class: ClassVar[type[LitMetaLearner]] = LitIMAML
    _: KW_ONLY
    inner_lr: float = 0.01
    inner_loop_steps: int = 16
    proximal_strength: float = 2.0
    cg_steps: int = 5


@dataclass(eq=False)
class Reptile(_InnerLoop):
    """Reptile (Nichol et al. 2018): the outer loop moves towards the fast weights.

    Args:
        inner_lr: learning rate of the inner loop.
    """

    lit_class: ClassVar[type[LitMetaLearner]] = LitReptile
    _: KW_ONLY
    inner_lr: float = 0.01


@dataclass(eq=False)
class ProtoMAML(MAML):
    """MAML whose head starts from the support set's prototypes (Triantafillou et al. 2020): any number of classes."""

    lit_class = LitProtoMAML


@dataclass(eq=False)
class ProtoNet(Learner):
    """Prototypical networks (Snell et al. 2017): the nearest class mean, for any number of classes; no inner loop."""

    lit_class: ClassVar[type[LitMetaLearner]] = LitProtoNet


LEARNERS: tuple[type[Learner], ...] = (ANIL, BOIL, MetaSGD, MAMLPlusPlus, IMAML, Reptile, ProtoMAML, ProtoNet, MAML)


def load(path: str | Path, model: nn.Module | None = None, loss: str | Callable | None = None) -> Learner:
    """The learner of a checkpoint, as it was trained. Nothing in the file is run as code.

    Args:
        path: a checkpoint of :meth:`Learner.save`, of the command line or of a Trainer; or a run's folder, whose best
            checkpoint is taken.
        model: a module to load the weights into; needed where it is not one of few_shot.models.
        loss: the loss, needed where it is of your own: a function that can be imported, or its dotted name.

    Raises:
        BadInput: there is no such checkpoint, or it does not fit the model.
    """
    changes = {} if loss is None else {"loss": loss}
    return learner_of(load_learner(find_checkpoint(path), LitMetaLearner, model, changes))


def learner_of(lit_model: LitMetaLearner) -> Learner:
    """The learner whose algorithm, with its model and weights, is there already.

    Raises:
        BadInput: no learner has such an algorithm.
    """
    kind = next((cls for cls in LEARNERS if isinstance(lit_model, cls.lit_class)), None)
    if kind is None:
        raise BadInput(f"{type(lit_model).__name__} is none of few_shot's algorithms, nor derived from one.")
    learner = object.__new__(kind)
    for f in fields(kind):
        setattr(learner, f.name, lit_model.constructor_arguments.get(f.name, f.default))
    learner.model, learner.lit_model = lit_model.model, lit_model
    return learner


class _Batches:
    """Any iterable, which Lightning takes as it is; a list it would take for several loaders."""

    def __init__(self, batches: Iterable) -> None:
        self.batches = batches
        self.passes = 0

    def __iter__(self) -> Iterator:
        """One pass.

        Raises:
            BadInput: there is nothing in it, and Lightning would go through it for ever.
        """
        empty = True
        for batch in self.batches:
            empty = False
            yield batch
        if empty and self.passes > 0:
            raise BadInput(
                "The data holds no more episodes, and can be gone through only once: give a list of batches, or a data "
                "module."
            )
        if empty:
            raise BadInput("The data holds no episode.")
        self.passes += 1


def _as_argument(data: pl.LightningDataModule | Iterable, name: str) -> dict[str, Any]:
    """The data as a Trainer's argument: a data module as such, anything else as loaders, which it calls ``name``.

    Raises:
        BadInput: it is neither a data module nor an iterable.
    """
    if isinstance(data, str | os.PathLike):
        path = shortened(data)
        raise BadInput(f"The data is the path {path}: give ImageFolders({path!r}) for pictures in class folders.")
    if isinstance(data, type) or not any(hasattr(data, way) for way in ("setup", "__iter__", "__getitem__")):
        what = f"the class {data.__name__}" if isinstance(data, type) else shortened(data)
        raise BadInput(f"The data is {what}: give a data module, such as Sinusoid(), or a list of EpisodeBatch.")
    return {"datamodule": data} if isinstance(data, pl.LightningDataModule) else {name: _Batches(data)}


def _trainer(verbose: bool, **arguments: Any) -> pl.Trainer:
    """A Trainer on one device that writes nothing, and shows its progress if asked to."""
    every = max(1, arguments.get("max_steps", 100) // 100)
    bars: list[pl.Callback] = [TQDMProgressBar(refresh_rate=every)] if verbose else []
    off: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return pl.Trainer(callbacks=bars, enable_progress_bar=verbose, **one_device(), **off, **arguments)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt in here; Lightning makes an exit of it, and ignores any further one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler or signal.default_int_handler)
        raise KeyboardInterrupt from None


@contextmanager
def _no_advice() -> Iterator[None]:
    """Lightning's advice, and its warnings of its own code, are not shown in here."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers.*",
                ".*`LightningModule.configure_optimizers` returned.*",
                ".*treespec.*is deprecated.*",
                ".*have no `val_dataloader`.*",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        log.setLevel(level)
