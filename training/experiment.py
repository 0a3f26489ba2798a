"""An experiment: its classes, their arguments and how to run it; and the modules that are built from it."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl

from few_shot.arguments import weights_follow
from few_shot.episodes import Split
from few_shot.errors import BadInput, above_zero, at_least
from training.run_folder import read_checkpoint
from training.settings import setting_of_test
from training.terminal import is_first_process

#: Lightning's strategies that work here: those whose processes are the command's own.
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


@dataclass
class RunOptions:
    """How to run, whatever the data, the model and the algorithm are.

    Args:
        log_dir: folder for the results. Each run gets a folder of its own in it.
        seed: a number from 0 to 2**32 - 1. It decides the initial weights and the training episodes.
        gpus: which GPUs to use on each node. -1 is all there are, but no more than batch_size; 0 is none; 2 is the
            first two; 0,3 is GPU 0 and GPU 3.
        num_processes: number of CPU processes on each node; all of them share the tasks of each outer update. null is
            one, or as many as a launcher such as torchrun or SLURM has started.
        num_nodes: number of machines that run this command at the same time; null is one, or as many as the launcher
            uses.
        strategy: how several processes work together, as Lightning names it. auto is ddp for several processes.
        accelerator: cpu ignores GPUs, gpu insists on one, auto takes those that --gpus names. ddp is the old spelling
            of --strategy=ddp.
        precision: number format of the computation. 32 and 64 are floating-point numbers of so many bits; bf16 computes
            most products in 16 bits (mixed precision).
        max_steps: length of the training, in outer updates.
        val_check_interval: outer updates from one validation to the next. The last update is followed by a validation
            in any case.
        limit_train_batches: end the training after this many outer updates, even if max_steps is larger; null is no
            limit.
        limit_val_batches: at most this many batches (batch_size episodes each) in a validation; 0 is no validation,
            null is all val_episodes.
        limit_test_batches: at most this many batches (batch_size episodes each) in the test; 0 is no test, null is all
            test_episodes.
        log_every_n_steps: outer updates from one logged training loss to the next; null is a twentieth of the training,
            and at most 50.
        ensemble: keep this many checkpoints, the best in validation, and also test the mean of their predictions;
            --ensemble alone is 5, 0 keeps the best one only.
        stop_early: stop the training when this many validations in a row are no better than the best one so far;
            --stop_early alone is 5, 0 never stops early.
        deterministic: whether to use only algorithms that give the same bits in every run, which can be slower.
        compile: whether to compile the computation of an outer update with torch.compile. The first update then takes
            seconds to minutes, the others are faster.
        fast_dev_run: whether to try the experiment out: one update, one batch of validation and one of test; no file is
            written.
        profile: whether to write how much time each part of the run took, to fit-profile.txt in the run's folder.
        resume: what to go on with, as if it had never stopped. A run's folder is that run, from its newest checkpoint;
            last is the run in log_dir that has written last; a checkpoint file is its run as it was then. The run's own
            settings hold, except for flags that are given.
        keep_memory: whether the process keeps freed memory for itself instead of returning it to the system (Linux, on
            the CPU). Without it an update of mini-ImageNet takes about half as long again.
        wandb: whether to log to Weights & Biases too. Without a network or an API key it logs offline, into the run's
            folder.
        track_grad_norm: log the outer gradient's norm of this order, before it is clipped; --track_grad_norm alone is
            2, the Euclidean norm, null logs none.
        log_gradient_histograms: whether to log a histogram of each parameter's outer gradient, to TensorBoard and
            Weights & Biases.
    """

    log_dir: str = "logs"
    seed: int = 0
    gpus: str = "-1"
    num_processes: int | None = None
    num_nodes: int | None = None
    strategy: str = "auto"
    accelerator: Literal["auto", "cpu", "gpu", "ddp"] = "auto"
    precision: Literal["32", "64", "bf16", "32-true", "64-true", "bf16-mixed"] = "32"
    max_steps: int = 60_000
    val_check_interval: int = 1000
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    limit_test_batches: int | None = None
    log_every_n_steps: int | None = None
    ensemble: int = 0
    stop_early: int = 0
    deterministic: bool = False
    compile: bool = False
    fast_dev_run: bool = False
    profile: bool = False
    resume: str | None = None
    keep_memory: bool = True
    wandb: bool = False
    track_grad_norm: float | None = None
    log_gradient_histograms: bool = False

    @property
    def updates(self) -> int:
        """How many outer updates there are in the whole training."""
        return min(self.max_steps, self.limit_train_batches or self.max_steps)

    def __post_init__(self) -> None:
        for name in (
            "num_processes",
            "num_nodes",
            "max_steps",
            "val_check_interval",
            "limit_train_batches",
            "log_every_n_steps",
        ):
            value = getattr(self, name)
            if value is not None:
                at_least(1, value, name)
        if self.track_grad_norm is not None:
            above_zero("track_grad_norm", self.track_grad_norm)
        if self.strategy not in STRATEGIES:
            raise BadInput(f"--strategy={self.strategy} cannot be used: choose one of {', '.join(STRATEGIES)}.")
        for name in ("limit_val_batches", "limit_test_batches", "ensemble", "stop_early", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise BadInput(f"--{name}={value} must not be negative.")
        for name in ("ensemble", "stop_early"):
            if getattr(self, name) and self.limit_val_batches == 0:
                raise BadInput(
                    f"--{name}={getattr(self, name)} needs validations to go by, and --limit_val_batches=0 is none."
                )
        if self.fast_dev_run and self.resume is not None:
            raise BadInput("--fast_dev_run and --resume exclude each other: it tries an experiment out from its start.")


#: What a run's validation scores depend on, beside the weights.
OF_VALIDATION = (
    *("data_class", "eval_seed", "val_episodes", "limit_val_batches", "episode_classes", "support_samples"),
    *("test_query_samples", "shuffle_labels", "rotations", "image_size", "class_split", "split_seed"),
    *("test_inner_loop_steps", "transductive", "inner_lr", "inner_optimizer", "adapt_norm", "loss"),
    "proximal_strength",
)


@dataclass
class Experiment:
    """A resolved command line."""

    classes: dict[str, type]  # by flag: data_class, model_class, lit_model_class
    arguments: dict[str, dict[str, Any]]  # each class's constructor arguments, by the same flags
    options: RunOptions
    extra: dict[str, Any]  # values of the flags that the calling script added
    config: dict[str, Any]  # everything, flat and plain: what config.yaml and checkpoints hold
    resumed_from: dict[str, Any]  # the config of the checkpoint that --resume names

    @property
    def name(self) -> str:
        """The bare names of data set and algorithm: ``Sinusoid-LitMAML``."""
        return "-".join(self.classes[flag].__name__ for flag in ("data_class", "lit_model_class"))

    @property
    def changed_validation(self) -> list[str]:
        """The flags that make a resumed run's validation another one: its scores do not compare with those before."""
        was, now = self.resumed_from, self.config
        both = was.keys() & now.keys()
        flags = [*OF_VALIDATION, *(["batch_size"] if now.get("limit_val_batches") else [])]  # a limit counts batches
        return [f for f in flags if f in both and setting_of_test(was, f) != setting_of_test(now, f)]

    def check_learned_rates(self, lit_model: Any) -> None:
        """Refuse an inner rate that would have no effect: it is learned, and the checkpoint's counts.

        Raises:
            BadInput: there is one.
        """
        rate = self.config.get("inner_lr")
        if getattr(lit_model, "rates", None) is not None and self.resumed_from.get("inner_lr", rate) != rate:
            raise BadInput(f"--inner_lr={rate} has no use here: the rates are learned, and the checkpoint's count.")

    def modules(self) -> tuple[Any, Any]:
        """Build the data module, which does not look for its data yet, and the algorithm with its model.

        The model's sizes are the data's. All random numbers start from the run's seed.
        """
        pl.seed_everything(self.options.seed, workers=True, verbose=False)
        data = self.classes["data_class"](seed=self.options.seed, **self.arguments["data_class"])
        with weights_follow() if self.resumed_from else nullcontext():
            model = self.classes["model_class"](
                input_shape=data.input_shape, output_size=data.output_size, **self.arguments["model_class"]
            )
        lit_model = self.classes["lit_model_class"](
            model=model, metric=data.metric, **self.arguments["lit_model_class"]
        )
        if self.options.precision.startswith("64"):
            lit_model.double()  # now: weights of 64 bits that are loaded first would lose half of them
        if self.options.compile:
            lit_model.compile_outer_step()
        return data, lit_model

    def build(self, test_split: Split | None = None, trained_on: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Build what :meth:`modules` does; then find and check the data.

        Args:
            test_split: the split to test on, if nothing is to be trained.
            trained_on: what is on record of the data that the weights were trained on; a test on its training classes
                is refused.

        Raises:
            BadInput: a value is out of its range, or the data cannot be found or used.
        """
        data, lit_model = self.modules()
        train_ways, ways = (getattr(data, k, None) for k in ("train_episode_classes", "episode_classes"))
        if lit_model.fixed_ways and train_ways != ways:
            raise BadInput(
                f"--train_episode_classes={train_ways} and --episode_classes={ways} must agree: "
                f"{type(lit_model).__name__} trains a head of one size."
            )
        data.test_split = test_split or data.test_split
        if is_first_process():  # Lightning would find bad data later, and with a traceback
            data.prepare_data()
            data.setup("fit" if test_split is None else "test")
            data.refuse_trained_classes(trained_on or {})
        return data, lit_model


def load_weights(lit_model: pl.LightningModule, path: str, flag: str) -> None:
    """Load a checkpoint's weights into an algorithm that was built for it.

    Args:
        flag: the flag that names the checkpoint, for messages.

    Raises:
        BadInput: the checkpoint cannot be read, or its model has other parameters or sizes.
    """
    try:
        lit_model.load_state_dict(read_checkpoint(path, flag)["state_dict"])
    except RuntimeError as error:
        difference = " ".join(str(error).split()[:60])
        raise BadInput(
            f"--{flag}={path} holds another model than the flags describe (the ways and the model must be its own): "
            f"{difference} …"
        ) from error
