"""Joint training: the baseline of Finn et al. 2017 (section 5.1, "pretrained")."""

from few_shot.adaptation import stack
from few_shot.episodes import EpisodeBatch
from few_shot.lit_models.base import TaskScores
from few_shot.lit_models.lit_maml import LitMAML


class LitJoint(LitMAML):
    """One model trained on the samples of all tasks together, support and query; fine-tuned to a task in evaluation.

    It cannot tell which task a sample is of: of sine waves it learns the mean, and of classes, whose labels are the
    episode's own, hardly more than features.
    """

    unused = dict.fromkeys(
        ("inner_loop_steps", "first_order", "checkpoint_inner_loop"), "its training has no inner loop"
    )

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        weights = stack(self.adapted_weights(), len(batch.index))
        x, y = batch.all_samples()
        return self.scores(self.predictions_of(x)(weights), y)
