"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017, https://arxiv.org/abs/1703.03400)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from few_shot.adaptation import Predict, inner_loop, norm_parameters, predict_apart, predictor, stack
from few_shot.episodes import EpisodeBatch, number_type
from few_shot.errors import BadInput, above_zero, at_least
from few_shot.evaluating import evaluating, usable
from few_shot.fast_path.folded import folded_predictor, split
from few_shot.inner_optimizers import INNER_OPTIMIZERS, Rates, Weights
from few_shot.lit_models.adapted_model import FirstOutputs, check_outputs, with_weights
from few_shot.lit_models.base import LitMetaLearner
from few_shot.lit_models.fixed_norm import fix_norms
from few_shot.lit_models.task_scores import TaskScores, by_ways
from few_shot.recomputation import Recomputation


class LitMAML(LitMetaLearner):
    """MAML, second order unless told otherwise: algorithm 2 of the paper.

    Args:
        inner_lr: learning rate of the inner loop, α.
        inner_loop_steps: inner steps in training, 1 or more.
        first_order: whether inner gradients count as constants in the outer gradient (FOMAML).
        adapt_norm: whether the inner loop adapts normalisation layers' scale and shift too. Off, only the outer loop
            trains them, as in MAML's code.
        inner_optimizer: the rule of an inner step; momentum is 0.9, and adam is made safe to differentiate through.
        checkpoint_inner_loop: whether the backward pass computes the inner steps again, one by one, instead of keeping
            them all: less memory where there are many steps, and more time. It changes nothing where no inner gradient
            is kept anyway: with first_order, and where the fast path computes a trained body once for all steps (ANIL).
    """

    outputs_in_use: int | None = None  # where tasks have fewer classes than the model has outputs

    def __init__(
        self,
        model: nn.Module,
        inner_lr: float = 0.01,
        inner_loop_steps: int = 5,
        first_order: bool = False,
        adapt_norm: bool = True,
        inner_optimizer: Literal["sgd", "momentum", "adam"] = "sgd",
        checkpoint_inner_loop: bool = False,
        **outer,
    ) -> None:
        super().__init__(model, **outer)
        above_zero("inner_lr", inner_lr)
        self.inner_lr = inner_lr
        self.inner_loop_steps = at_least(1, inner_loop_steps, "inner_loop_steps")
        self.first_order = first_order
        self.adapt_norm = adapt_norm
        self.inner_optimizer = INNER_OPTIMIZERS[inner_optimizer]
        self.checkpoint_inner_loop = checkpoint_inner_loop

    def reason_not_to_compile(self, batch: EpisodeBatch) -> str | None:
        if self.checkpoint_inner_loop:
            return "inner steps that are computed again cannot be compiled"
        return super().reason_not_to_compile(batch)

    def predictions_of(self, x: Tensor) -> Callable[[Weights], Tensor]:
        """Predictions ``[T, n, out]`` for ``x`` ``[T, n, ...]`` as a function of T tasks' fast weights.

        On the fast path, what comes before the first layer that adapts is computed here, once for all inner steps.
        """
        if (layers := self.folded_layers) is None:
            predict = predictor(self.model)
        else:
            fixed, adapting = split(layers, self.adapted_weights())
            x = folded_predictor(self.model, fixed)({}, x)
            predict = folded_predictor(self.model, adapting)

        def predictions(fast_weights: Weights) -> Tensor:
            found = predict(fast_weights, x)
            return found.to(next(iter(fast_weights.values()), found).dtype)  # losses are exact, autocast or not

        return predictions

    def vectorised(self) -> Predict:
        """Predictions as a function of T tasks' fast weights and inputs, by vmap whatever the model."""
        return predictor(self.model)

    def support_loss(self, support_x: Tensor, support_y: Tensor) -> Callable[[Weights], Tensor]:
        """Each task's support loss ``[T]`` as a function of the fast weights."""
        predictions, used = self.predictions_of(support_x), self.outputs_in_use
        if used is None:
            return lambda fast_weights: self.loss(predictions(fast_weights), support_y)
        return lambda fast_weights: self.loss(predictions(fast_weights)[..., :used], support_y)

    def adapted_weights(self) -> Weights:
        """The parameters that the inner loop adapts: here all that are trained, or all but normalisation's."""
        fixed = set() if self.adapt_norm else norm_parameters(self.model)
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad and name not in fixed}

    def initial_weights(self, support_x: Tensor, support_y: Tensor) -> Weights:
        """The tasks' fast weights ``[T, ...]`` before the first inner step: here the same for all."""
        return stack(self.adapted_weights(), len(support_x))

    def inner_rates(self, step: int) -> Rates:
        """Each adapted parameter's inner learning rate at a step: here one constant."""
        return dict.fromkeys(self.adapted_weights(), self.inner_lr)

    def named_rates(self, rates: Iterable[Tensor]) -> Rates:
        """A rate for each adapted parameter, by the parameter's name.

        Raises:
            BadInput: others adapt than did when the learner was built.
        """
        names, each = list(self.adapted_weights()), list(rates)
        if len(names) != len(each):
            raise BadInput(
                f"{type(self).__name__} was built with {len(each)} parameters to adapt, each with its rate, and now "
                f"there are {len(names)}: freeze layers before you build it."
            )
        return dict(zip(names, each, strict=True))

    def adapt(self, support_x: Tensor, support_y: Tensor, steps: int) -> Iterator[Weights]:
        """Yield the tasks' fast weights ``[T, ...]`` before the first inner step and after each.

        Give them to what :meth:`predictions_of` returns. The initial weights stay as they are. Under
        ``torch.no_grad()`` no graph is kept.

        Args:
            support_x: the tasks' inputs, ``[T, n, ...]``.
            support_y: their targets, ``[T, n]`` for class labels or ``[T, n, 1]`` for numbers.
            steps: inner steps, 0 or more.
        """
        return inner_loop(
            self.support_loss(support_x, support_y),
            self.initial_weights(support_x, support_y),
            steps=steps,
            optimizer=self.inner_optimizer,
            rates=self.inner_rates,
            first_order=self.first_order,
            recomputation=self.recomputation(),
        )

    def recomputation(self) -> Recomputation | None:
        """How the backward pass computes the inner steps again; None where they are kept."""
        if not self.checkpoint_inner_loop or self._computes_a_trained_body_once:
            return None
        return Recomputation([p for p in self.parameters() if p.requires_grad], self.step_again)

    def step_again(self, step: int) -> AbstractContextManager:
        """A context in which an inner step does what it did when it was first computed."""
        return nullcontext()

    @property
    def _computes_a_trained_body_once(self) -> bool:
        """Whether inner steps start from activations that the outer gradient passes through."""
        fixed, _ = split(self.folded_layers or [], self.adapted_weights())
        modules = [self.model.get_submodule(name) for layer in fixed for name in layer.modules]
        return any(p.requires_grad for module in modules for p in module.parameters(recurse=False))

    def outer_scores(self, batch: EpisodeBatch) -> TaskScores:
        *_, fast_weights = self.adapt(batch.support_x, batch.support_y, self.inner_loop_steps)
        return self.scores(self.predictions_of(batch.query_x)(fast_weights), batch.query_y)

    def step_predictions(self, batch: EpisodeBatch, steps: list[int]) -> list[Tensor]:
        predictions, used = self._query_predictions(batch), self.outputs_in_use
        adapted = self.adapt(batch.support_x, batch.support_y, max(steps))
        return [predictions(weights)[..., :used] for step, weights in enumerate(adapted) if step in steps]

    def test_predictions(self, batch: EpisodeBatch, steps: list[int]) -> list[Tensor]:
        classes = None
        if self.objective.metric(batch.query_y).of_classes:
            of_each, classes = self.ways_of_each(batch), self.known_ways(batch.support_y)
            if of_each is not None:
                *fewer, classes = of_each.unique().tolist()
                if fewer:
                    return self._predictions_of_groups(batch, steps, of_each)
        with self._only_outputs(classes):
            return self.step_predictions(batch, steps)

    def _predictions_of_groups(self, batch: EpisodeBatch, steps: list[int], classes: Tensor) -> list[Tensor]:
        """The query predictions of tasks with unequal numbers of classes ``[T]``; -inf for those that a task lacks."""
        shape = (*batch.query_y.shape, int(classes.max()))
        found = [batch.query_x.new_full(shape, -torch.inf, dtype=number_type(self)) for _ in steps]
        for tasks, some in by_ways(batch, classes):
            for predictions, of_some in zip(found, self.test_predictions(some, steps), strict=True):
                predictions[tasks, :, : of_some.shape[-1]] = of_some
        return found

    @contextmanager
    def _only_outputs(self, classes: int | None) -> Iterator[None]:
        """In here the inner loop and the predictions have outputs for so many classes; None for all there are."""
        self.outputs_in_use = classes
        try:
            yield
        finally:
            self.outputs_in_use = None

    def adapted_model(
        self, support_x: Tensor, support_y: Tensor, steps: int, classes: int | None = None, transductive: bool = False
    ) -> nn.Module:
        with evaluating(self), self._only_outputs(classes):
            support_x, support_y = usable(support_x), usable(support_y)
            outputs = classes
            if classes is not None:
                outputs = self.vectorised()({}, support_x[None, :2]).shape[-1]  # of two samples, for batch norm
                check_outputs(outputs, classes)
            # Not one step further: batch norm stays at the step that led to the last weights.
            adapted = islice(self.adapt(support_x[None], support_y[None], steps), steps, None)
            model = with_weights(self.model, next(adapted)).eval()
            if classes is not None and outputs != classes:
                model = FirstOutputs(model, classes)
        if not transductive:
            fix_norms(model, support_x)
        return model

    def _query_predictions(self, batch: EpisodeBatch) -> Callable[[Weights], Tensor]:
        if self.transductive:
            return self.predictions_of(batch.query_x)
        predict = self.vectorised()
        return lambda fast_weights: predict_apart(predict, fast_weights, batch.support_x, batch.query_x)
