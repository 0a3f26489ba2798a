"""Meta-train a model, test it, and leave a record of the run.

    python training/run_experiment.py --data_class=MiniImagenet --model_class=Conv4 --gpus=-1
"""

import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from few_shot.errors import BadInput, TrainingDiverged
from few_shot.evaluation import summarize, table, write_episodes
from training import visualize
from training.command_line import Experiment, fail, parse
from training.experiment import VERSION_VARIABLE, build_trainer, print_once, record, run_directory


def main(argv: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run one experiment; returns the content of ``test_metrics.json``, or None without a test."""
    argv = list(sys.argv[1:] if argv is None else argv)
    set_up_process()
    try:
        return run(parse(argv, description=str(__doc__).splitlines()[0], base_config=resumed_config(argv)))
    except BadInput as error:
        fail(Path(sys.argv[0]).name, str(error))
    except TrainingDiverged as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def run(experiment: Experiment) -> dict[str, Any] | None:
    """Train, test, write the record, print the result."""
    options = experiment.options
    data, lit_model = build(experiment)
    directory = Path(options.log_dir) if options.fast_dev_run else run_directory(experiment)
    os.environ[VERSION_VARIABLE] = directory.name.removeprefix("version_")
    try:
        trainer = build_trainer(experiment, directory, data.metric)
        if not options.fast_dev_run:
            record(experiment, directory)
        trainer.fit(lit_model, datamodule=data, ckpt_path=options.resume, weights_only=True)
        best = None
        if not options.fast_dev_run:
            checkpoints: Any = trainer.checkpoint_callback
            best = checkpoints.best_model_path or None
            if not checkpoints.last_model_path:  # a run without validation
                trainer.save_checkpoint(directory / "checkpoints" / "last.ckpt")
        summary = None
        if options.limit_test_batches != 0:
            trainer.test(lit_model, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
            summary = report(experiment, lit_model, data, None if options.fast_dev_run else directory)
        if not options.fast_dev_run:
            draw(lit_model, data, trainer, directory)
            print_once(f"Everything about this run is in {directory}")
        return summary
    finally:
        del os.environ[VERSION_VARIABLE]


def set_up_process() -> None:
    """Quiet what a user can do nothing about."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Consider setting.*persistent_workers.*")
    warnings.filterwarnings("ignore", message=".*`LightningModule.configure_optimizers` returned.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    torch.set_float32_matmul_precision("high")


def build(experiment: Experiment) -> tuple[Any, Any]:
    """The data module, its data found and checked, and the algorithm around its model."""
    pl.seed_everything(experiment.options.seed, workers=True, verbose=False)
    data = experiment.build_data()
    lit_model = experiment.build_lit_model(data)
    if rank_zero_only.rank == 0:
        data.prepare_data()
        data.setup("fit")
    return data, lit_model


def resumed_config(argv: Sequence[str]) -> dict[str, Any] | None:
    """The settings in the checkpoint that ``--resume`` names, if it is on the command line."""
    for i, argument in enumerate(argv):
        if argument == "--resume" and i + 1 < len(argv):
            return checkpoint_config(argv[i + 1], "resume")
        if argument.startswith("--resume="):
            return checkpoint_config(argument.removeprefix("--resume="), "resume")
    return None


def checkpoint_config(path: str, flag: str) -> dict[str, Any]:
    """The resolved flags of the run that wrote a checkpoint.

    Raises:
        BadInput: the file is not there, or is no checkpoint of this project.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)["config"]
    except FileNotFoundError:
        raise BadInput(f"--{flag}={path} does not exist.") from None
    except Exception as error:
        raise BadInput(f"--{flag}={path} is no checkpoint of this project ({type(error).__name__}).") from error


def report(experiment: Experiment, lit_model: Any, data: Any, directory: Path | None) -> dict[str, Any]:
    """Print the test result, write it to ``directory``, and return it."""
    results = lit_model.results
    summary = summarize(results, lit_model.metric, data.eval_seed, lit_model.transductive)
    if directory is not None and rank_zero_only.rank == 0:
        (directory / "test_metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
        write_episodes(results, lit_model.metric, directory / "test_episodes.csv")
    print_once(f"\n{table(summary)}\n")
    return summary


@rank_zero_only
def draw(lit_model: Any, data: Any, trainer: pl.Trainer, directory: Path) -> None:
    """Write the run's pictures, and hand them to its loggers."""
    pictures = {"curves": visualize.draw_curves(directory)}
    if data.metric == "mse" and tuple(data.input_shape) == (1,):
        pictures["fit"] = visualize.draw_fit(lit_model, data, directory / "fit.png")
    for name, path in pictures.items():
        if path is not None:
            visualize.log_picture(trainer.loggers, name, path, trainer.global_step)
            print_once(f"{name}: {path}")


if __name__ == "__main__":
    main()
