"""The test of a model, and of an ensemble on the same episodes: run it, print it, write it."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Trainer

from few_shot.evaluation import summarize, table
from training.run_folder import RunFolder
from training.terminal import print_result


def test(
    trainer: Trainer,
    lit_model: Any,
    data: Any,
    checkpoint: str | None = None,
    members: Sequence[dict[str, Any]] = (),
    folder: RunFolder | None = None,
) -> dict[str, Any]:
    """Test a model and print the result; returns the content of ``test_metrics.json``.

    Args:
        checkpoint: the weights to test; None for those that the model has.
        members: weights of an ensemble, which is tested on the same episodes; none for no ensemble.
        folder: where to write the result; None to write nothing.
    """

    def summary() -> dict[str, Any]:
        return summarize(lit_model.results, lit_model.metric, data.eval_seed, lit_model.transductive)

    trainer.test(lit_model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    results, found = {"test": lit_model.results}, summary()
    if members:
        own = {name: value.clone() for name, value in lit_model.state_dict().items()}
        lit_model.members = list(members)
        trainer.test(lit_model, datamodule=data, verbose=False)
        lit_model.members = []
        lit_model.load_state_dict(own)
        results["ensemble"], found["ensemble"] = lit_model.results, {"members": len(members)} | summary()
    if folder is not None:
        folder.write_results(found, results)
    print_result(f"\n{table(found)}\n")
    return found
