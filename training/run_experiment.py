"""Meta-train a model, test it, and leave a record of the run.

python training/run_experiment.py --data_class=MiniImagenet --model_class=Conv4 --gpus=-1
"""

import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from training.starting import start

    start()

import pytorch_lightning as pl

from few_shot.data import ImageFolders
from few_shot.errors import BadInput, TrainingDiverged
from few_shot.files import given_path
from few_shot.metrics import METRICS
from training import slurm
from training.callbacks import RunRecord
from training.checkpoints import DamagedState, refusing_a_damaged_state
from training.command_line import clear_errors, own_flags, parse_run
from training.devices import device_name, end_launched, world_of
from training.experiment import Experiment, load_weights
from training.out_of_memory import explained
from training.pictures_of_run import show_run
from training.process import set_up_process
from training.run_folder import RunFolder, check_resumable, data_record, ensemble_of, read_checkpoint
from training.stopping import Stopped
from training.terminal import is_first_process, print_result, say, script
from training.testing import test
from training.trainer import build_trainer


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run one experiment; returns the content of ``test_metrics.json``, or None without a test."""
    with clear_errors():
        return run(parse_run(argv, "Meta-train a model, test it, and leave a record of the run."))[0]


def run(experiment: Experiment) -> tuple[dict[str, Any] | None, RunFolder | None]:
    """Train, test, write the record, print the result; returns that, and the run's folder if it has one."""
    try:
        return _run(experiment)
    except Stopped as stop:
        if slurm.job() and stop.signum == signal.SIGUSR1 and is_first_process():
            stop.add_note(slurm.requeue())
        raise


def _run(experiment: Experiment) -> tuple[dict[str, Any] | None, RunFolder | None]:
    options = experiment.options
    set_up_process(options)
    world = world_of(experiment)
    before: dict[str, Any] = {}
    if options.resume is not None:
        before = read_checkpoint(options.resume, "resume")
        check_resumable(before, options.resume)
    if before and not options.fast_dev_run and (over := trains_no_more(experiment, before)):
        folder_of_run = RunFolder.going_on_from(str(options.resume))
        is_tested = folder_of_run is None or folder_of_run.is_tested
        if options.limit_test_batches == 0 or is_tested:
            say(f"{over} Nothing is done, and nothing is changed.")
            return None, folder_of_run
        say(f"{over} Its test is left.")
        options.max_steps = before["global_step"]
    data, lit_model = experiment.build(trained_on=data_record(before))
    if data.test_episodes < world.size and options.limit_test_batches != 0:
        raise BadInput(f"test_episodes={data.test_episodes} is fewer than the {world.size} processes that share them.")
    if options.fast_dev_run:
        trainer = build_trainer(experiment, world, None, data.metric)
        with explained(lit_model, data, world.size):
            fit(trainer, lit_model, data, options.resume)
            return None if options.limit_test_batches == 0 else test(trainer, lit_model, data), None
    if options.resume is not None:
        load_weights(lit_model, options.resume, "resume")  # before the run's record is touched
        if experiment.resumed_from.get("outer_optimizer", lit_model.outer_optimizer) != lit_model.outer_optimizer:
            raise BadInput("--outer_optimizer cannot change in a resumed run: its state is of another kind.")
        was, now = (c["lit_model_class"].rpartition(".")[2] for c in (experiment.resumed_from, experiment.config))
        if was != now:
            raise BadInput(f"--lit_model_class={now} cannot go on with a run of {was}: begin a new run.")
        experiment.check_learned_rates(lit_model)
    going_on = RunFolder.going_on_from(options.resume) if options.resume is not None else None
    if before and going_on is None:
        say(f"{options.resume} lies in no run's folder (version_<number>): a new run goes on from it.")
    if going_on is not None:
        check_log_dir(experiment, going_on)
        if changed := experiment.changed_validation:
            flags = ", ".join(f"--{flag}" for flag in changed)
            say(f"The validation is another one than before ({flags}): the best checkpoint is sought anew.")
    folder = RunFolder.start(options.log_dir, experiment.name, options.resume, world)
    with folder.taken(), folder.shared_with_launched_processes(), how_to_go_on(folder, experiment.config):
        if before and read_checkpoint(str(options.resume), "resume")["global_step"] != before["global_step"]:
            raise BadInput(f"--resume={options.resume} has gone on meanwhile: resume it again.")
        device = device_name(experiment, world)

        def record() -> None:
            if before:
                folder.branch(Path(str(options.resume)))
            folder.record(experiment.config, device, before or None, data.record())

        keeper = RunRecord(
            folder,
            experiment.config,
            record,
            resumed=bool(before),
        )
        trainer = build_trainer(experiment, world, folder, data.metric, before.get("global_step"), keeper)
        try:
            with explained(lit_model, data, world.size):
                fit(trainer, lit_model, data, options.resume)
                return finish(experiment, trainer, lit_model, data, folder), folder
        except Stopped as stop:
            if not stop.agreed:
                end_launched(trainer)
            raise


def check_log_dir(experiment: Experiment, folder: RunFolder) -> None:
    """Refuse a ``--log_dir`` that a resumed run does not lie in: it goes on where it is.

    Raises:
        BadInput: there is one.
    """
    given = experiment.options.log_dir
    if given == experiment.resumed_from.get("log_dir", given):
        return
    if given_path(given, "log_dir").resolve() != folder.path.resolve().parents[1]:
        raise BadInput(
            f"--log_dir={given} has no use here: a resumed run goes on in its own folder, {folder.path}. To begin a "
            "new run from its checkpoint, copy that to another folder and resume it there."
        )


def fit(trainer: pl.Trainer, lit_model: Any, data: Any, resume: str | None) -> None:
    """Train, from a checkpoint on if there is one."""
    with refusing_a_damaged_state(resume):
        trainer.fit(lit_model, datamodule=data, ckpt_path=resume, weights_only=True)


def trains_no_more(experiment: Experiment, before: dict[str, Any]) -> str | None:
    """Why a run that is to be resumed has no update to do; None if it has.

    Args:
        before: the checkpoint to go on from.
    """
    options, done = experiment.options, before["global_step"]
    if done >= options.updates:
        limit = "max_steps" if options.updates == options.max_steps else "limit_train_batches"
        return f"The run has done {done} updates, and --{limit}={options.updates} asks for no more."
    stopped_early = before["callbacks"].get("LastCheckpoint", {}).get("stopped_early")
    if stopped_early and options.stop_early and options.stop_early == experiment.resumed_from.get("stop_early"):
        return f"The run was stopped after {done} updates by --stop_early={options.stop_early}."
    return None


@contextmanager
def how_to_go_on(folder: RunFolder, config: Mapping[str, Any]) -> Iterator[None]:
    """Add to whatever ends a run in here where its last checkpoint is, and the command that goes on from it."""
    try:
        yield
    except DamagedState:
        raise
    except TrainingDiverged as error:
        error.add_note(folder.where_it_stands())
        error.add_note("A lower rate may help, or --gradient_clip_val; --max_skipped_updates=10 skips such updates.")
        raise
    except BaseException as error:
        if folder.last_checkpoint.is_file():
            given = folder.flags_not_recorded(config)  # those that it is resumed with, if it has not begun
            command = shlex.join(
                ["python", script("run_experiment.py"), f"--resume={folder.path}", *own_flags(config), *given]
            )
            error.add_note(f"Go on from the last checkpoint with: {command}")
        else:
            error.add_note(f"There is no checkpoint yet in {folder.path}.")
        raise


def finish(
    experiment: Experiment, trainer: pl.Trainer, lit_model: Any, data: Any, folder: RunFolder
) -> dict[str, Any] | None:
    """Test what was trained, draw the run's pictures and say where everything is."""
    options, updates = experiment.options, trainer.global_step  # which Lightning forgets in an ensemble's test
    checkpoint: Any = trainer.checkpoint_callback
    # Without validation nothing says what is best.
    best = None if options.limit_val_batches == 0 else checkpoint.best_model_path or None
    summary = None
    if options.limit_test_batches != 0:
        started = time.perf_counter()
        kept = Path(checkpoint.dirpath)  # the same in every process, whoever has launched them
        members = ensemble_of(kept, options.ensemble, METRICS[data.metric].mode) if options.ensemble else []
        summary = test(trainer, lit_model, data, best, members, folder)
        folder.add_cost(updates, test=time.perf_counter() - started)
    loggers: Any = trainer.loggers
    show_run(lit_model, data, folder, loggers, updates)
    for logger in loggers:
        logger.close()
    folder.finish()
    print_result(f"Everything about this run is in {folder.path}")
    if isinstance(data, ImageFolders):
        print_result(in_plain_words(data, summary, folder, experiment.config))
    return summary


def in_plain_words(
    data: ImageFolders, summary: dict[str, Any] | None, folder: RunFolder, config: Mapping[str, Any]
) -> str:
    """What a run on one's own pictures has come to, and what to do with it."""
    shots = "1 picture" if data.support_samples == 1 else f"{data.support_samples} pictures"
    said = ""
    if summary is not None and summary["mean"] is not None:
        said = (
            f"\nShown {shots} of each of {data.episode_classes} classes that it had never seen, the model names "
            f"{100 * summary['mean']:.0f} % of other pictures of them right; guessing would name "
            f"{100 / data.episode_classes:.0f} %."
        )
    own = "".join(f" {shlex.quote(flag)}" for flag in own_flags(config))
    predict = f"python {shlex.quote(script('predict.py'))} --checkpoint={shlex.quote(str(folder.path))}"
    return (
        f"{said}\nTo label pictures of new classes, put some examples of each class into new_classes/<class>/ and the "
        f"others into inbox/:\n    {predict} "
        f"--support=new_classes --images=inbox --output=labels.csv{own}"
    )


if __name__ == "__main__":
    main()
