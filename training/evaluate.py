"""Test a checkpoint: on other episodes, splits, shots or steps, or to get the run's very number again.

python training/evaluate.py --checkpoint=logs/Sinusoid-LitMAML/version_0/checkpoints/last.ckpt --test_episodes=1000
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.command_line import clear_errors, parse
from training.record import ensemble_of, load_weights, make_folder, test
from training.trainer import build_trainer, set_up_process


@dataclass
class EvaluationOptions:
    """What to evaluate. An ensemble is of the best checkpoints that lie beside the one that is named.

    Args:
        checkpoint: the checkpoint; its run's settings hold unless a flag says otherwise.
        split: the classes to draw episodes from.
        output_dir: folder for test_metrics.json and test_episodes.csv; None prints only.
    """

    checkpoint: str
    split: Literal["train", "val", "test"] = "test"
    output_dir: str | None = None


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate one checkpoint; returns the content of ``test_metrics.json``."""
    with clear_errors():
        experiment = parse(argv, "Test a checkpoint.", extra=EvaluationOptions, settings_from="checkpoint")
        options = experiment.options
        options.fast_dev_run, options.resume = False, None
        if options.limit_test_batches == 0:  # the run was not tested; this is
            options.limit_test_batches = None
        set_up_process(options)
        data, lit_model = experiment.build(test_split=experiment.extra["split"])
        trainer = build_trainer(experiment, directory=None, metric=data.metric)
        trainer.precision_plugin.convert_module(lit_model)  # or 64 bits would lose half on their way
        checkpoint = Path(experiment.extra["checkpoint"])
        load_weights(lit_model, str(checkpoint), "checkpoint")
        members = ensemble_of(checkpoint.parent, options.ensemble, data.metric) if options.ensemble else []
        output = None if experiment.extra["output_dir"] is None else Path(experiment.extra["output_dir"])
        if output is not None:
            make_folder(output, "output_dir")
        return test(trainer, lit_model, data, members=members, directory=output)


if __name__ == "__main__":
    main()
