"""Body only update in the inner loop (Oh, Yoo, Kim & Yun 2021, https://arxiv.org/abs/2008.08882, section 3)."""

from torch import nn

from few_shot.adaptation import head_parameters
from few_shot.errors import BadInput
from few_shot.inner_optimizers import Weights
from few_shot.lit_models.lit_maml import LitMAML


class LitBOIL(LitMAML):
    """MAML whose inner loop adapts all but the head; the outer loop trains body and head.

    The head is the model's last module with parameters of its own.

    Raises:
        BadInput: the model is all head, its body is frozen, or its body and its head share a weight.
    """

    def __init__(self, model: nn.Module, **maml) -> None:
        super().__init__(model, **maml)
        self.head = head_parameters(self.model)
        if not self.adapted_weights():
            only_a_head = len(self.head) == len(list(model.parameters()))
            why = "has only a head" if only_a_head else "has its body frozen"
            raise BadInput(f"LitBOIL adapts a model's body, and {type(model).__name__} {why}.")

    def adapted_weights(self) -> Weights:
        """All parameters but the head's."""
        return {name: p for name, p in super().adapted_weights().items() if name not in self.head}
