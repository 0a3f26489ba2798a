"""The outer step of an algorithm as compiled code, and as it is where it cannot be compiled."""

from collections.abc import Callable, Iterable

from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import nn

from few_shot.episodes import EpisodeBatch
from few_shot.fast_path.compilation import compile_scores
from few_shot.lit_models.task_scores import TaskScores

OuterScores = Callable[[EpisodeBatch], TaskScores]


class CompiledStep:
    """``outer_scores``, compiled together with its gradient when it is first called.

    What cannot be compiled runs as it is from then on, after one sentence that says so.

    Args:
        outer_scores: what to compile.
        parameters: what its gradient is taken by.
        reason_against: why a batch should not be compiled; None where it should.
    """

    def __init__(
        self,
        outer_scores: OuterScores,
        parameters: Iterable[nn.Parameter],
        reason_against: Callable[[EpisodeBatch], str | None],
    ) -> None:
        self.plain = outer_scores
        self.compiled = compile_scores(outer_scores, [p for p in parameters if p.requires_grad])
        self.reason_against = reason_against
        self.given_up = False

    def __call__(self, batch: EpisodeBatch) -> TaskScores:
        if self.given_up:
            return self.plain(batch)
        reason = self.reason_against(batch)
        if reason is None:
            try:
                return TaskScores(*self.compiled(batch))
            except Exception as error:
                reason = f"it cannot be compiled: {str(error).strip().splitlines()[0]}"
        rank_zero_warn(f"--compile: this experiment runs as it is ({reason}).")
        self.given_up = True
        return self.plain(batch)
