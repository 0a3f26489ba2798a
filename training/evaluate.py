"""Test a checkpoint: on other episodes, splits, shots or steps, or to get the run's very number again.

python training/evaluate.py --checkpoint=logs/Sinusoid-LitMAML/version_0/checkpoints/last.ckpt --test_episodes=1000
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from training.starting import start

    start()

from few_shot.checkpoint import find_checkpoint
from few_shot.errors import BadInput
from few_shot.files import given_path
from few_shot.metrics import METRICS
from training.command_line import TRAINING_ONLY, clear_errors, parse
from training.devices import world_of
from training.experiment import load_weights
from training.out_of_memory import explained
from training.process import set_up_process
from training.run_folder import RunFolder, data_record, ensemble_of, make_folder, read_checkpoint
from training.terminal import print_result
from training.testing import test
from training.trainer import build_trainer


@dataclass
class EvaluationOptions:
    """What to evaluate.

    Args:
        checkpoint: a run's folder, whose best checkpoint is taken; or a checkpoint file; or a published result's folder
            (benchmarks/results/NAME). The run's own settings hold, except for flags that are given. With --ensemble,
            the other checkpoints are those beside it.
        split: the classes to draw the episodes from, those of the training, the validation or the test. Ways and
            queries are the test's. Training episodes are drawn from --seed: with train, give another --eval_seed.
        output_dir: folder to write test_metrics.json and test_episodes.csv into; null only prints the result.
    """

    checkpoint: str
    split: Literal["train", "val", "test"] = "test"
    output_dir: str | None = None


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate one checkpoint; returns the content of ``test_metrics.json``."""
    with clear_errors():
        experiment = parse(
            argv,
            "Test a checkpoint and print the result. --output_dir=FOLDER also writes it.",
            EvaluationOptions,
            settings_from="checkpoint",
            unused=TRAINING_ONLY,
        )
        options = experiment.options
        options.fast_dev_run, options.resume = False, None
        if options.limit_test_batches == 0:  # the run was not tested; this is
            options.limit_test_batches = None
        set_up_process(options)
        world = world_of(experiment)
        checkpoint = Path(experiment.extra["checkpoint"])
        trained_on = data_record(read_checkpoint(checkpoint, "checkpoint"))
        data, lit_model = experiment.build(experiment.extra["split"], trained_on)
        trainer = build_trainer(experiment, world, None, data.metric)
        trainer.precision_plugin.convert_module(lit_model)  # or 64 bits would lose half on their way
        load_weights(lit_model, str(checkpoint), "checkpoint")
        experiment.check_learned_rates(lit_model)
        mode = METRICS[data.metric].mode
        members = ensemble_of(find_checkpoint(checkpoint).parent, options.ensemble, mode) if options.ensemble else []
        output = None
        if experiment.extra["output_dir"] is not None:
            output = RunFolder(given_path(experiment.extra["output_dir"], "output_dir"))
            if (output.path / "run.json").is_file():
                raise BadInput(
                    f"output_dir={output.path} is the folder of a run, which has a test of its own: name another."
                )
            make_folder(output.path, "output_dir")
        with explained(lit_model, data, world.size):
            found = test(trainer, lit_model, data, members=members, folder=output)
        published = RunFolder(checkpoint).published_results().get(data.test_query_samples, {})
        if experiment.extra["split"] == "test" and published.get("pictures") not in (None, found.get("pictures")):
            print_result(
                f"The result in {checkpoint} is of other pictures than those in {data.data_dir}, or of the same in "
                "another order. So its episodes are others, and its number may differ by chance."
            )
        if output is None:
            print_result("The result is not kept in a file: --output_dir=FOLDER would do that.")
        else:
            print_result(f"The result is in {output.path}")
        return found


if __name__ == "__main__":
    main()
