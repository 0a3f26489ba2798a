"""Proto-MAML (Triantafillou et al. 2020, "Meta-Dataset", https://arxiv.org/abs/1903.03096, section 3)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from few_shot.adaptation import Predict, last
from few_shot.evaluating import evaluating, usable
from few_shot.inner_optimizers import Rates, Weights
from few_shot.lit_models.adapted_model import with_weights
from few_shot.lit_models.fixed_norm import fix_norms
from few_shot.lit_models.lit_maml import LitMAML
from few_shot.lit_models.without_head import LitWithoutHead, exact, prototypes_of


class LitProtoMAML(LitWithoutHead, LitMAML):
    """MAML whose head starts from the prototypes of the support set, so that it takes any number of classes.

    A prototype c_k is the mean embedding of class k's support samples by the body's initial weights. The head starts
    as W_k = 2 c_k and b_k = -‖c_k‖², with which its logits are minus the squared distances to the prototypes, but for
    what is the same for all classes. From there the inner loop adapts body and head. The outer gradient flows through
    the prototypes too. The paper trains with more classes than it tests: ``train_episode_classes``.
    """

    def __init__(self, model: nn.Module, **maml) -> None:
        super().__init__(model, **maml)
        self.head_weights = (f"{self.head}.weight", f"{self.head}.bias")

    def initial_weights(self, support_x: Tensor, support_y: Tensor) -> Weights:
        """The body's initial weights for every task, and each task's head: ``[T, N, f]`` and ``[T, N]``."""
        # By the parameters, not by the stacked weights: the first inner gradient takes the head as it is.
        prototypes = prototypes_of(self.embed(support_x), support_y, self.ways(support_y))
        head = dict(zip(self.head_weights, (2 * prototypes, -prototypes.square().sum(-1)), strict=True))
        return super().initial_weights(support_x, support_y) | head

    def inner_rates(self, step: int) -> Rates:
        """One constant, for the head too."""
        return dict.fromkeys([*self.adapted_weights(), *self.head_weights], self.inner_lr)

    def predictions_of(self, x: Tensor) -> Callable[[Weights], Tensor]:
        features = super().predictions_of(x)
        return lambda fast_weights: self._logits(fast_weights, features)

    def vectorised(self) -> Predict:
        features = super().vectorised()
        return lambda fast_weights, x: self._logits(fast_weights, lambda body: features(body, x))

    def _logits(self, fast_weights: Weights, features: Callable[[Weights], Tensor]) -> Tensor:
        """Logits ``[T, n, N]`` from the features ``[T, n, f]`` that the body's fast weights give."""
        body = dict(fast_weights)
        weight, bias = (body.pop(name) for name in self.head_weights)
        embedded = features(body).to(weight.dtype)
        with exact(embedded.device.type):  # a logit is a difference of large numbers
            return torch.baddbmm(bias[:, None], embedded, weight.mT)

    def adapted_model(
        self, support_x: Tensor, support_y: Tensor, steps: int, classes: int | None = None, transductive: bool = False
    ) -> nn.Module:
        """Body and head, a linear layer with an output for each class; there may be any number of them."""
        with evaluating(self):
            support_x, support_y = usable(support_x), usable(support_y)
            body = last(self.adapt(support_x[None], support_y[None], steps))
            weight, bias = (nn.Parameter(body.pop(name)[0], requires_grad=False) for name in self.head_weights)
            model = with_weights(self.model, body).eval()
            head = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            head.weight, head.bias = weight, bias
            model.set_submodule(self.head, head)
        if not transductive:
            fix_norms(model, support_x)
        return model
