"""MAML++: nothing when off, finite differences for all that it learns, the plain loop, and each switch's effect."""

import itertools

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from helpers import bare_trainer
from oracles import flat_gradient, relative_error, slope
from torch.func import functional_call
from torch.utils.data import DataLoader

from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.lit_models import LitMAML, LitMAMLPlusPlus
from few_shot.lit_models.per_step_batch_norm import PerStepBatchNorm
from few_shot.models import Conv4, SinusoidMLP

STEPS, RATE = 2, 0.05
OFF = {
    "multi_step_loss_updates": 0,
    "learned_rates": False,
    "per_step_bn_statistics": False,
    "per_step_bn_weights": False,
    "outer_schedule": "constant",
}
some_models = pytest.mark.parametrize("model_and_batch", ["SinusoidMLP", "Conv4"], indirect=True)
with_batch_norm = pytest.mark.parametrize("model_and_batch", ["Conv4"], indirect=True)


def build(cls, model, loss, **arguments):
    metric = "mse" if loss == "mse_loss" else "accuracy"
    return cls(model, loss=loss, metric=metric, **{"inner_loop_steps": STEPS, "inner_lr": RATE} | arguments)


def outer_loss(lit_model, batch):
    return lit_model.outer_scores(batch).loss.mean()


@some_models
def test_with_all_switches_off_it_is_maml(model_and_batch):
    model, loss, batch = model_and_batch
    maml, plus_plus = build(LitMAML, model, loss), build(LitMAMLPlusPlus, model, loss, **OFF)
    assert list(maml.state_dict()) == list(plus_plus.state_dict())
    results = [(outer_loss(m, batch), m.step_scores(batch, [0, 3])) for m in (maml, plus_plus)]
    assert results[0][0] == results[1][0]
    assert torch.equal(*(flat_gradient(loss, model) for loss, _ in results))
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(one.loss, other.loss)
    assert plus_plus.outer_schedule == "constant" and plus_plus.transductive


@pytest.fixture
def plus_plus(model_and_batch):
    """All switches on, in the middle of the annealing, with what is learned moved off its symmetric start."""
    model, loss, batch = model_and_batch
    lit_model = build(LitMAMLPlusPlus, model, loss)
    lit_model.anneal(2000)
    torch.manual_seed(1)
    with torch.no_grad():
        for rate in lit_model.rates:
            rate *= 0.5 + torch.rand_like(rate)
        for norm in lit_model.norms:
            for p in norm.parameters():
                p += 0.1 * torch.randn_like(p)
    return lit_model, batch


@some_models
@pytest.mark.parametrize("learned", ["adapted", "rates", "norms"])
def test_gradients_of_all_that_is_learned_are_finite_differences(plus_plus, learned):
    lit_model, batch = plus_plus
    groups = {
        "adapted": list(lit_model.adapted_weights().values()),
        "rates": list(lit_model.rates),
        "norms": [p for norm in lit_model.norms for p in norm.parameters()],
    }
    assert sum(map(len, groups.values())) == len(list(lit_model.parameters()))
    if not groups[learned]:
        return
    module = torch.nn.ParameterList(groups[learned])
    gradient = flat_gradient(outer_loss(lit_model, batch), module)
    direction = gradient / gradient.norm()
    found = slope(lambda: outer_loss(lit_model, batch), module, direction, h=1e-8)
    assert found == pytest.approx(gradient.norm().item(), rel=1e-5)
    for p in groups["rates"] + groups["norms"]:  # every step's own row is learned
        (rows,) = torch.autograd.grad(outer_loss(lit_model, batch), p)
        assert (rows.reshape(len(rows), -1).norm(dim=1) > 0).all()


def plain_outer_loss(lit_model, batch, make_model):
    """The paper's equations task by task, on a model with ordinary batch norm."""
    model, losses = make_model(), []
    per_step = {}
    for name, p in lit_model.model.named_parameters():
        (per_step if name not in lit_model.adapted_weights() else {})[name] = p
    for x, y, query_x, query_y, _ in zip(*batch, strict=True):
        weights, total = dict(lit_model.adapted_weights()), 0
        for step in range(STEPS):
            here = {name: rows[step] for name, rows in per_step.items()}
            loss = F.cross_entropy(functional_call(model, {**weights, **here}, (x,)), y)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {
                name: w - rate[step] * g
                for (name, w), rate, g in zip(weights.items(), lit_model.rates, gradients, strict=True)
            }
            query_loss = F.cross_entropy(functional_call(model, {**weights, **here}, (query_x,)), query_y)
            total = total + lit_model.step_weights[step] * query_loss
        losses.append(total)
    return torch.stack(losses).mean()


@with_batch_norm
def test_outer_gradient_is_that_of_the_plain_loop(plus_plus):
    lit_model, batch = plus_plus
    oracle = plain_outer_loss(lit_model, batch, lambda: Conv4((3, 16, 16), 3, width=6))
    loss = outer_loss(lit_model, batch)
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-10)
    assert relative_error(flat_gradient(loss, lit_model), flat_gradient(oracle, lit_model)) < 1e-9


def test_importance_of_the_steps():
    """Equal at first, all but nothing for the earlier steps at the end, then the last alone; it always sums to 1."""
    lit_model = LitMAMLPlusPlus(SinusoidMLP(), inner_loop_steps=5, multi_step_loss_updates=1000)
    weights = []
    for update in (0, 500, 999, 1000):
        lit_model.anneal(update)
        weights.append(lit_model.step_weights.tolist())
    assert weights[0] == pytest.approx([0.2] * 5)
    assert weights[1] == pytest.approx([0.1] * 4 + [0.6])
    assert weights[2] == pytest.approx([0.006] * 4 + [0.976])
    assert weights[3] == [0, 0, 0, 0, 1]


@some_models
def test_multi_step_loss_is_the_weighted_sum_and_then_mamls(model_and_batch):
    model, loss, batch = model_and_batch
    lit_model = build(LitMAMLPlusPlus, model, loss, **OFF | {"multi_step_loss_updates": 100})
    after_each = [s.loss.mean() for s in lit_model.step_scores(batch, [1, 2])]
    for update, weights in ((0, [0.5, 0.5]), (50, [0.25, 0.75]), (100, [0, 1])):
        lit_model.anneal(update)
        expected = sum(w * value for w, value in zip(weights, after_each, strict=True))
        assert outer_loss(lit_model, batch).item() == pytest.approx(expected.item(), rel=1e-10)


@some_models
def test_the_gradient_is_first_order_at_first(model_and_batch):
    model, loss, batch = model_and_batch
    lit_model = build(LitMAMLPlusPlus, model, loss, **OFF | {"first_order_updates": 10})
    oracles = [build(LitMAML, model, loss, first_order=order) for order in (True, False)]
    for update, oracle in ((0, oracles[0]), (9, oracles[0]), (10, oracles[1])):
        lit_model.anneal(update)
        found, expected = (flat_gradient(outer_loss(m, batch), model) for m in (lit_model, oracle))
        assert relative_error(found, expected) < 1e-12
    assert relative_error(*(flat_gradient(outer_loss(m, batch), model) for m in oracles)) > 1e-4


@some_models
def test_learned_rates_start_at_the_inner_rate(model_and_batch):
    model, loss, batch = model_and_batch
    learned = build(LitMAMLPlusPlus, model, loss, **OFF | {"learned_rates": True})
    maml = build(LitMAML, model, loss)
    assert outer_loss(learned, batch).item() == pytest.approx(outer_loss(maml, batch).item(), rel=1e-7)
    with torch.no_grad():
        learned.rates[0][-1] *= 2
    assert learned.inner_rates(STEPS + 3) == learned.inner_rates(STEPS - 1)
    steps = [s.loss for s in learned.step_scores(batch, [1, 2, 3])]
    mamls = [s.loss for s in maml.step_scores(batch, [1, 2, 3])]
    same = [torch.allclose(a, b, rtol=1e-6) for a, b in zip(steps, mamls, strict=True)]
    assert same == [True, False, False]


def inputs_of_the_norms(lit_model, plain, batch):
    """Every batch norm input ``[n, C, ...]`` of the plain loop, by (layer, row): support and last query pass."""
    seen = {}
    layers = [m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    fast = [list(w.values()) for w in lit_model.adapt(batch.support_x, batch.support_y, STEPS)]
    names = list(lit_model.adapted_weights())
    for step, task in itertools.product(range(STEPS + 1), range(len(batch.index))):
        x = batch.support_x[task] if step < STEPS else batch.query_x[task]
        weights = {name: w[task] for name, w in zip(names, fast[step], strict=True)}
        row = min(step, STEPS - 1)
        hooks = [
            layer.register_forward_hook(lambda m, args, out, key=(i, row): seen.setdefault(key, []).append(args[0]))
            for i, layer in enumerate(layers)
        ]
        functional_call(plain, weights, (x,))
        for hook in hooks:
            hook.remove()
    return seen


@with_batch_norm
def test_running_statistics_are_the_tasks_mean_at_each_step(model_and_batch):
    model, loss, batch = model_and_batch
    lit_model = build(LitMAMLPlusPlus, model, loss, **OFF | {"per_step_bn_statistics": True})
    maml = build(LitMAML, Conv4((3, 16, 16), 3, width=6), loss)
    maml.model.load_state_dict(lit_model.model.state_dict(), strict=False)
    # In training the batch's own statistics count, as without the switch.
    assert outer_loss(lit_model, batch).item() == pytest.approx(outer_loss(maml, batch).item(), rel=1e-10)
    lit_model.update_statistics(1)
    assert len(lit_model.norms) == 4
    for (layer, step), inputs in inputs_of_the_norms(maml, maml.model, batch).items():
        mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
        var = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
        torch.testing.assert_close(lit_model.norms[layer].running_mean[step], 0.1 * mean)
        torch.testing.assert_close(lit_model.norms[layer].running_var[step], 0.9 + 0.1 * var)


@with_batch_norm
def test_running_statistics_affect_evaluation(model_and_batch):
    model, loss, batch = model_and_batch
    lit_model = build(LitMAMLPlusPlus, model, loss, **OFF | {"per_step_bn_statistics": True}).eval()
    before = [s.loss for s in lit_model.step_scores(batch, [0, 1, 2])]
    lit_model.train()
    for _ in range(50):
        outer_loss(lit_model, batch)
        lit_model.update_statistics(1)
    lit_model.eval()
    after = [s.loss for s in lit_model.step_scores(batch, [0, 1, 2])]
    assert not any(torch.allclose(a, b, rtol=1e-3) for a, b in zip(before, after, strict=True))
    lit_model.norms[1].running_mean[1] += 1.0  # only what the second step, and its query pass, reads
    changed = [s.loss for s in lit_model.step_scores(batch, [0, 1, 2])]
    assert [torch.equal(a, b) for a, b in zip(after, changed, strict=True)] == [True, True, False]


@with_batch_norm
def test_a_skipped_update_leaves_the_running_statistics(model_and_batch):
    model, loss, batch = model_and_batch
    lit_model = build(LitMAMLPlusPlus, model, loss, max_skipped_updates=1)
    before = {name: value.clone() for name, value in lit_model.state_dict().items()}
    spoilt = batch._replace(support_x=batch.support_x * float("nan"))
    with pytest.warns(match="The loss of update 1 is not finite .* skipped"):
        bare_trainer(max_steps=1, precision="64-true").fit(lit_model, DataLoader([spoilt], batch_size=None))
    after = lit_model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@with_batch_norm
def test_no_query_sample_sees_another_with_running_statistics(model_and_batch):
    model, loss, batch = model_and_batch
    lit_model = build(LitMAMLPlusPlus, model, loss).eval()
    assert not lit_model.transductive
    *_, fast_weights = lit_model.adapt(batch.support_x, batch.support_y, STEPS)
    together = lit_model.predictions_of(batch.query_x)(fast_weights)
    alone = lit_model.predictions_of(batch.query_x[:, :1])(fast_weights)
    torch.testing.assert_close(together[:, :1], alone, rtol=1e-10, atol=1e-12)


@with_batch_norm
def test_per_step_weights_are_not_adapted_and_start_alike(model_and_batch):
    model, loss, batch = model_and_batch
    names = [name for name, _ in model.named_parameters()]
    lit_model = build(LitMAMLPlusPlus, model, loss, **OFF | {"per_step_bn_weights": True})
    norms = [m for m in lit_model.model.modules() if isinstance(m, PerStepBatchNorm)]
    assert {tuple(norm.weight.shape) for norm in norms} == {(STEPS, 6)}
    assert set(names) - set(lit_model.adapted_weights()) == {
        f"body.{i}.{p}" for i in np.arange(1, 16, 4) for p in ("weight", "bias")
    }
    assert lit_model.transductive
    assert torch.isfinite(outer_loss(lit_model, batch))


def test_the_outer_rate_falls_along_a_cosine_unless_told_otherwise():
    assert LitMAMLPlusPlus(SinusoidMLP()).outer_schedule == "cosine"


@pytest.mark.parametrize("name", ["multi_step_loss_updates", "first_order_updates"])
def test_impossible_values_are_named(name):
    with pytest.raises(BadInput, match=f"^{name}=-1"):
        LitMAMLPlusPlus(SinusoidMLP(), **{name: -1})


def test_learned_rates_do_not_decay(float64):
    lit_model = LitMAMLPlusPlus(
        SinusoidMLP(), loss="mse_loss", metric="mse", outer_optimizer="sgd", outer_lr=1.0, weight_decay=0.25
    )
    before = {name: p.detach().clone() for name, p in lit_model.named_parameters()}
    for p in lit_model.parameters():
        p.grad = torch.zeros_like(p)
    lit_model.configure_optimizers().step()
    for name, p in lit_model.named_parameters():
        torch.testing.assert_close(p.data, before[name] * (1.0 if name.startswith("rates") else 0.75))


def test_a_failed_update_leaves_nothing_for_the_next():
    norm = PerStepBatchNorm(torch.nn.BatchNorm2d(3), 2, statistics=True, weights=True)
    norm.collect(torch.full((2, 3), torch.nan), torch.ones(2, 3))
    norm.forget()
    norm.collect(torch.ones(2, 3), torch.ones(2, 3))
    norm.update()
    assert norm.running_mean.isfinite().all()


def test_norms_that_are_not_adapted_are_not():
    arguments = {"per_step_bn_weights": False, "adapt_norm": False}
    adapted = LitMAMLPlusPlus(Conv4((3, 16, 16), 3, width=4), **arguments).adapted_weights()
    assert adapted.keys() == LitMAML(Conv4((3, 16, 16), 3, width=4), adapt_norm=False).adapted_weights().keys()


def test_it_trains_in_the_models_number_type():
    x = torch.rand(2, 5, 1, dtype=torch.float64)
    lit_model = LitMAMLPlusPlus(SinusoidMLP().double(), loss="mse_loss", metric="mse")
    assert lit_model.outer_scores(EpisodeBatch(x, x, x, x, torch.arange(2))).loss.dtype == torch.float64
    assert {p.dtype for p in LitMAMLPlusPlus(Conv4((1, 16, 16), 3, width=4).double()).parameters()} == {torch.float64}
    pictures, labels = torch.rand(6, 1, 16, 16, dtype=torch.float64), torch.arange(3).repeat(2)
    adapted = LitMAMLPlusPlus(Conv4((1, 16, 16), 3, width=4).double()).adapted_model(pictures, labels, 2)
    assert adapted(pictures).dtype == torch.float64


def test_the_model_is_at_its_first_step_after_it_has_adapted():
    lit_model = LitMAMLPlusPlus(Conv4((1, 16, 16), 3, width=4), inner_loop_steps=3)
    lit_model.adapted_model(torch.rand(6, 1, 16, 16), torch.arange(3).repeat(2), 3)
    assert {norm.step for norm in lit_model.norms} == {0}


class Norms(torch.nn.Module):
    """Uses its batch norm so many times, and has another one that it does not use."""

    def __init__(self, uses):
        super().__init__()
        self.body, self.head, self.uses = torch.nn.Linear(4, 6), torch.nn.Linear(6, 3), uses
        self.norm, self.unused = torch.nn.BatchNorm1d(6), torch.nn.BatchNorm1d(2)

    def forward(self, x):
        x = self.body(x)
        for _ in range(self.uses):
            x = self.norm(x).relu()
        return self.head(x)


def points():
    x, y = torch.rand(2, 6, 4), torch.arange(3).repeat(2, 2)
    return DataLoader([EpisodeBatch(x, y, x, y, torch.arange(2))], batch_size=None)


def test_a_norm_that_is_not_used_is_left_and_one_that_is_used_twice_is_refused():
    lit_model = LitMAMLPlusPlus(Norms(1), metric="accuracy")
    bare_trainer(max_steps=1).fit(lit_model, points())
    used, unused = lit_model.norms
    assert used.running_mean.any() and not unused.running_mean.any()
    for uses in (2, 2):  # and again, after what failed
        with pytest.raises(BadInput, match="Norms uses a batch norm more than once"):
            bare_trainer(max_steps=1).fit(LitMAMLPlusPlus(Norms(uses), metric="accuracy"), points())
    bare_trainer(max_steps=1).fit(LitMAMLPlusPlus(Norms(2), metric="accuracy", per_step_bn_statistics=False), points())


class Keeps(pl.Callback):
    """What a checkpoint at the end of each update holds."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, lit_model, *_):
        self.states.append({name: value.clone() for name, value in lit_model.state_dict().items()})


def test_a_checkpoint_after_an_update_has_the_statistics_that_go_with_its_weights():
    kept = Keeps()
    lit_model = LitMAMLPlusPlus(Norms(1), metric="accuracy")
    bare_trainer(max_steps=2, callbacks=[kept]).fit(lit_model, points())
    now = lit_model.state_dict()
    assert [name for name in now if not torch.equal(now[name], kept.states[-1][name])] == []
