"""Random initialisation: the baseline that says what fine-tuning achieves without any meta-learning."""

from typing import Any

from few_shot.episodes import EpisodeBatch
from few_shot.lit_models.lit_maml import LitMAML


class LitRandom(LitMAML):
    """The model as it was initialised, adapted in validation and test as MAML's is; nothing is trained.

    A run ends after its first outer update, which changes nothing; so it is validated, tested and recorded like any
    other.
    """

    unused = dict.fromkeys(
        (
            "inner_loop_steps",
            "first_order",
            "checkpoint_inner_loop",
            "outer_optimizer",
            "outer_lr",
            "outer_schedule",
            "tasks_at_once",
            "weight_decay",
            "gradient_clip_val",
            "gradient_clip_algorithm",
            "max_skipped_updates",
        ),
        "nothing is trained",
    )

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """Count one outer update, without a gradient, and end the training."""
        optimizer: Any = self.optimizers()
        optimizer.step()  # parameters without a gradient are left alone, weight decay and all
        self.trainer.should_stop = True
