"""Meta-train a model, test it, and leave a record of the run.

python training/run_experiment.py --data_class=MiniImagenet --model_class=Conv4 --gpus=-1
"""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from few_shot.data import ImageFolders
from few_shot.errors import BadInput
from few_shot.metrics import METRICS
from few_shot.plots import can_draw_fit, draw_fit
from training import out_of_memory, visualize
from training.command_line import clear_errors, parse
from training.devices import device_name, world_of
from training.experiment import Experiment, load_weights
from training.loggers import close, log_picture
from training.process import set_up_process
from training.run_folder import RunFolder, data_record, ensemble_of, read_checkpoint
from training.terminal import print_result
from training.testing import test
from training.trainer import build_trainer


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run one experiment; returns the content of ``test_metrics.json``, or None without a test."""
    with clear_errors():
        return run(parse(argv, description="Meta-train a model, test it, and leave a record of the run."))


def run(experiment: Experiment) -> dict[str, Any] | None:
    """Train, test, write the record, print the result."""
    options = experiment.options
    set_up_process(options)
    world = world_of(experiment)
    before = {} if options.resume is None else read_checkpoint(options.resume, "resume")
    data, lit_model = experiment.build(trained_on=data_record(before))
    if options.fast_dev_run:
        trainer = build_trainer(experiment, world, None, data.metric)
        trainer.fit(lit_model, datamodule=data, ckpt_path=options.resume, weights_only=True)
        return test(trainer, lit_model, data)
    resumed_at = None
    if options.resume is not None:
        load_weights(lit_model, options.resume, "resume")  # before the run's record is touched
        if experiment.resumed_from.get("outer_optimizer", lit_model.outer_optimizer) != lit_model.outer_optimizer:
            raise BadInput("--outer_optimizer cannot change in a resumed run: its state is of another kind.")
        resumed_at = before["global_step"]
    folder = RunFolder.start(options.log_dir, experiment.name, options.resume, world)
    with folder.taken(), folder.shared_with_launched_processes():
        folder.record(experiment.config, device_name(experiment, world), resumed_at, data.record())
        trainer = build_trainer(experiment, world, folder, data.metric, resumed_at)
        with out_of_memory.explained(lit_model, data, -(-data.batch_size // world.size), folder.where_it_stands):
            trainer.fit(lit_model, datamodule=data, ckpt_path=options.resume, weights_only=True)
        checkpoint: Any = trainer.checkpoint_callback
        best = None
        if options.limit_val_batches == 0:  # nothing says what is best, and the last update may lie between two saves
            trainer.save_checkpoint(folder.last_checkpoint)
        else:
            best = checkpoint.best_model_path or None
        summary = None
        if options.limit_test_batches != 0:
            started = time.perf_counter()
            kept = Path(checkpoint.dirpath)  # the same in every process, whoever has launched them
            members = ensemble_of(kept, options.ensemble, METRICS[data.metric].mode) if options.ensemble else []
            summary = test(trainer, lit_model, data, best, members, folder)
            folder.add_cost(trainer.global_step, test=time.perf_counter() - started)
        draw(lit_model, data, trainer, folder)
        close(trainer.loggers)
        print_result(f"Everything about this run is in {folder.path}")
        if isinstance(data, ImageFolders):
            print_result(in_plain_words(data, summary, folder))
        return summary


def in_plain_words(data: ImageFolders, summary: dict[str, Any] | None, folder: RunFolder) -> str:
    """What a run on one's own pictures has come to, and what to do with it."""
    shots = "1 picture" if data.support_samples == 1 else f"{data.support_samples} pictures"
    said = ""
    if summary is not None and summary["mean"] is not None:
        said = (
            f"\nShown {shots} of each of {data.episode_classes} classes that it had never seen, the model names "
            f"{100 * summary['mean']:.0f} % of other pictures of them right; guessing would name "
            f"{100 / data.episode_classes:.0f} %."
        )
    return (
        f"{said}\nTo label pictures of new classes, put some examples of each class into new_classes/<class>/ and the "
        f"others into inbox/:\n    python training/predict.py --checkpoint={shlex.quote(str(folder.path))} "
        "--support=new_classes --images=inbox --output=labels.csv"
    )


@rank_zero_only
def draw(lit_model: Any, data: Any, trainer: pl.Trainer, folder: RunFolder) -> None:
    """Write the run's pictures, and hand them to its loggers."""
    pictures = {"curves": visualize.draw_curves(folder)}
    if can_draw_fit(lit_model, data):
        pictures["fit"] = folder.path / "fit.png"
        draw_fit(lit_model, data).savefig(folder.path / "fit.png", dpi=120)
    for name, path in pictures.items():
        if path is not None:
            log_picture(trainer.loggers, name, path, trainer.global_step)
            print_result(f"{name}: {path}")


if __name__ == "__main__":
    main()
