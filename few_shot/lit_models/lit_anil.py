"""Almost no inner loop (Raghu, Raghu, Bengio & Vinyals 2020, "Rapid learning or feature reuse?", section 4)."""

from torch import nn

from few_shot.adaptation import head_parameters
from few_shot.errors import BadInput
from few_shot.inner_optimizers import Weights
from few_shot.lit_models.lit_maml import LitMAML


class LitANIL(LitMAML):
    """MAML whose inner loop adapts the head alone; the outer loop trains body and head.

    The head is the model's last module with parameters of its own. All tasks of a meta-batch share the body, and
    no inner gradient passes through it.

    Raises:
        BadInput: the head has no weights of its own to train.
    """

    def __init__(self, model: nn.Module, **maml) -> None:
        super().__init__(model, **maml)
        self.head = head_parameters(self.model)
        if not self.adapted_weights():
            raise BadInput(f"LitANIL adapts a model's head, and that of {type(model).__name__} is frozen.")

    def adapted_weights(self) -> Weights:
        """The head's parameters."""
        return {name: p for name, p in super().adapted_weights().items() if name in self.head}
