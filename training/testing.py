"""The test of a model, and of an ensemble on the same episodes: run it, print it, write it."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from few_shot.evaluation import EpisodeResults, summarize, table
from few_shot.lit_models.ensemble import LitEnsemble
from few_shot.lit_models.trainer_settings import one_device
from training.callbacks import Progress
from training.run_folder import RunFolder
from training.terminal import print_result


def test(
    trainer: pl.Trainer,
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

    def summary(results: EpisodeResults) -> dict[str, Any]:
        return summarize(results, data.metric, data.eval_seed, lit_model.transductive)

    trainer.test(lit_model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    results, found = {"test": lit_model.results}, summary(lit_model.results)
    if pictures := data.pictures(data.test_split):
        found["pictures"] = pictures
    if members:
        ensemble: Any = LitEnsemble(lit_model, members)
        trainer.test(ensemble, datamodule=data, verbose=False)
        results["ensemble"] = ensemble.results
        found["ensemble"] = {"members": len(members)} | summary(ensemble.results)
    if data.test_split != "test":
        found["split"] = data.test_split
    print_result(f"\n{table(found)}\n")
    if folder is not None:
        folder.write_results(found, results)
    return found


def score(lit_model: Any, data: Any, steps: int) -> EpisodeResults:
    """Each test episode's result after 0 to ``steps`` inner steps, on one device; nothing is printed or written."""
    off: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(callbacks=[Progress()], inference_mode=False, **one_device(), **off)
    its_own = lit_model.test_inner_loop_steps
    lit_model.test_inner_loop_steps = steps
    try:
        trainer.test(lit_model, datamodule=data, verbose=False)
    finally:
        lit_model.test_inner_loop_steps = its_own
    return lit_model.results
