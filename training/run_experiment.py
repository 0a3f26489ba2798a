"""Meta-train a model, test it, and leave a record of the run.

python training/run_experiment.py --data_class=MiniImagenet --model_class=Conv4 --gpus=-1
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from few_shot.errors import BadInput
from training import visualize
from training.command_line import Experiment, clear_errors, parse
from training.record import (
    VERSION_VARIABLE,
    ensemble_of,
    load_weights,
    print_once,
    record,
    record_cost,
    run_directory,
    test,
)
from training.trainer import build_trainer, device_name, set_up_process


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run one experiment; returns the content of ``test_metrics.json``, or None without a test."""
    with clear_errors():
        return run(parse(argv, description="Meta-train a model, test it, and leave a record of the run."))


def run(experiment: Experiment) -> dict[str, Any] | None:
    """Train, test, write the record, print the result."""
    options = experiment.options
    set_up_process(options)
    data, lit_model = experiment.build()
    if options.fast_dev_run:
        trainer = build_trainer(experiment, Path(options.log_dir), data.metric)
        trainer.fit(lit_model, datamodule=data, ckpt_path=options.resume, weights_only=True)
        return test(trainer, lit_model, data)
    if options.resume is not None:
        load_weights(lit_model, options.resume, "resume")  # before the run's record is touched
        if experiment.resumed_from.get("outer_optimizer", lit_model.outer_optimizer) != lit_model.outer_optimizer:
            raise BadInput("--outer_optimizer cannot change in a resumed run: its state is of another kind.")
    directory = run_directory(experiment)
    os.environ[VERSION_VARIABLE] = directory.name.removeprefix("version_")
    try:
        record(experiment, directory, device_name(experiment))
        trainer = build_trainer(experiment, directory, data.metric)
        trainer.fit(lit_model, datamodule=data, ckpt_path=options.resume, weights_only=True)
        checkpoint: Any = trainer.checkpoint_callback
        best = None
        if options.limit_val_batches == 0:  # nothing says what is best, and the last update may lie between two saves
            trainer.save_checkpoint(directory / "checkpoints" / "last.ckpt")
        else:
            best = checkpoint.best_model_path or None
        summary = None
        if options.limit_test_batches != 0:
            started = time.perf_counter()
            folder = Path(checkpoint.dirpath)  # the same in every process, whoever has launched them
            members = ensemble_of(folder, options.ensemble, data.metric) if options.ensemble else []
            summary = test(trainer, lit_model, data, best, members, directory)
            record_cost(directory, trainer.global_step, test=time.perf_counter() - started)
        draw(lit_model, data, trainer, directory)
        print_once(f"Everything about this run is in {directory}")
        return summary
    finally:
        del os.environ[VERSION_VARIABLE]


@rank_zero_only
def draw(lit_model: Any, data: Any, trainer: pl.Trainer, directory: Path) -> None:
    """Write the run's pictures, and hand them to its loggers."""
    pictures = {"curves": visualize.draw_curves(directory)}
    if visualize.can_draw_fit(data):
        pictures["fit"] = visualize.draw_fit(lit_model, data, directory / "fit.png")
    for name, path in pictures.items():
        if path is not None:
            visualize.log_picture(trainer.loggers, name, path, trainer.global_step)
            print(f"{name}: {path}")


if __name__ == "__main__":
    main()
