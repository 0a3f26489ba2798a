"""Proto-MAML against a plain loop over tasks, finite differences and prototypical networks."""

import copy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from helpers import bare_trainer
from oracles import flat_gradient, relative_error, slope
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader

from few_shot import ProtoMAML
from few_shot.episodes import IGNORED, EpisodeBatch
from few_shot.errors import BadInput
from few_shot.lit_models import LitProtoMAML, LitProtoNet
from few_shot.models import Conv4, ResNet12, SinusoidMLP

STEPS, RATE = 2, 0.05
MODELS = {
    "chain": lambda: Conv4((3, 16, 16), 5, width=6),  # has a fast path
    "no chain": lambda: ResNet12((3, 16, 16), 5, width=3),
    "flat": lambda: SinusoidMLP((3, 16, 16), 5, width=7),
}


@pytest.fixture(autouse=True)
def _float64(float64):
    torch.manual_seed(0)


def episodes(ways, shots=2, queries=3, tasks=2):
    """Labels are in an order of each task's own."""
    x = [torch.rand(tasks, ways * n, 3, 16, 16) for n in (shots, queries)]
    y = [
        torch.stack([torch.arange(ways).repeat_interleave(n)[torch.randperm(ways * n)] for _ in range(tasks)])
        for n in (shots, queries)
    ]
    return EpisodeBatch(x[0], y[0], x[1], y[1], torch.arange(tasks))


def plain_logits(body, support_x, support_y, query_x, steps, adapted, first_order=False):
    """Triantafillou et al. 2020, section 3, for one task, sample by sample and class by class."""
    weights = dict(body.named_parameters())
    embedded = body(support_x)
    prototypes = [embedded[support_y == c].mean(0) for c in range(int(support_y.max()) + 1)]
    head = torch.stack([2 * c for c in prototypes]), torch.stack([-(c * c).sum() for c in prototypes])
    for _ in range(steps):
        # Variables of the inner loop are apart: the first head's way back to the body is the outer loop's alone.
        variables = [weights[name] for name in adapted] + list(head)
        leaves = [v.view_as(v) for v in variables]
        body_leaves, head_leaves = dict(zip(adapted, leaves, strict=False)), leaves[-2:]
        loss = F.cross_entropy(
            F.linear(functional_call(body, weights | body_leaves, (support_x,)), *head_leaves), support_y
        )
        gradients = torch.autograd.grad(loss, leaves, create_graph=not first_order)
        stepped = [v - RATE * g for v, g in zip(variables, gradients, strict=True)]
        weights = weights | dict(zip(adapted, stepped, strict=False))
        head = stepped[-2:]
    return F.linear(functional_call(body, weights, (query_x,)), *head)


def plain_loss(lit_model, batch, steps=STEPS, first_order=False):
    adapted = list(lit_model.adapted_weights())
    losses = [
        F.cross_entropy(plain_logits(lit_model.model, sx, sy, qx, steps, adapted, first_order), qy)
        for sx, sy, qx, qy, _ in zip(*batch, strict=True)
    ]
    return torch.stack(losses).mean()


def outer_loss(lit_model, batch):
    return lit_model.outer_scores(batch).loss.mean()


@pytest.mark.parametrize("ways", [3, 7], ids=["fewer than the head had", "more"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_plain_loop_over_tasks(model, first_order, ways):
    lit_model = LitProtoMAML(MODELS[model](), inner_lr=RATE, inner_loop_steps=STEPS, first_order=first_order)
    assert (lit_model.folded_layers is None) == (model == "no chain")
    batch = episodes(ways)
    loss, oracle = outer_loss(lit_model, batch), plain_loss(lit_model, batch, first_order=first_order)
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-10)
    assert relative_error(flat_gradient(loss, lit_model), flat_gradient(oracle, lit_model)) < 1e-10


def test_vmap_and_the_fast_path_agree_with_norms_left_to_the_outer_loop():
    body, batch = Conv4((3, 16, 16), 5, width=6), episodes(4)
    gradients = []
    for fast_path in (True, False):
        lit_model = LitProtoMAML(
            copy.deepcopy(body), inner_lr=RATE, inner_loop_steps=STEPS, adapt_norm=False, fast_path=fast_path
        )
        gradients.append(flat_gradient(outer_loss(lit_model, batch), lit_model))
        oracle = flat_gradient(plain_loss(lit_model, batch), lit_model)
        assert relative_error(gradients[-1], oracle) < 1e-10
    assert relative_error(*gradients) < 1e-10


def test_the_outer_gradient_is_that_of_finite_differences():
    """A smooth body, so that no unit switches between the two points."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(768, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    lit_model, batch = LitProtoMAML(body, inner_lr=RATE, inner_loop_steps=STEPS), episodes(4)
    gradient = flat_gradient(outer_loss(lit_model, batch), lit_model)
    found = slope(lambda: outer_loss(lit_model, batch), lit_model, gradient / gradient.norm(), h=1e-6)
    assert found == pytest.approx(gradient.norm().item(), rel=1e-6)


def test_before_the_first_step_it_is_the_nearest_prototype():
    """Its logits are ProtoNet's but for what is the same for all classes; after a step they are not."""
    lit_model, batch = LitProtoMAML(Conv4((3, 16, 16), 5, width=6), transductive=False, inner_lr=RATE), episodes(4)
    proto_net = LitProtoNet(Conv4((3, 16, 16), 5, width=6), transductive=False)
    proto_net.model.load_state_dict(lit_model.model.state_dict())
    (distances,) = proto_net.step_predictions(batch, [0])
    before, after = (x.softmax(-1) for x in lit_model.step_predictions(batch, [0, 1]))
    torch.testing.assert_close(before, distances.softmax(-1), rtol=1e-9, atol=1e-12)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("model", ["chain", "no chain"])
def test_no_query_sample_sees_another_unless_transductive(model):
    lit_model, batch = LitProtoMAML(MODELS[model](), inner_lr=RATE), episodes(4)
    alone = batch._replace(query_x=batch.query_x[:, :1])
    for transductive in (False, True):
        lit_model.transductive = transductive
        together = lit_model.step_predictions(batch, [2])[0][:, :1]
        agree = torch.allclose(together, lit_model.step_predictions(alone, [2])[0], rtol=1e-9)
        assert agree == (not transductive)


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_the_adapted_model_is_a_plain_module_with_a_linear_head(model, transductive):
    lit_model, batch = LitProtoMAML(MODELS[model](), inner_lr=RATE, transductive=transductive), episodes(9)
    before = copy.deepcopy(lit_model.state_dict())
    for task, expected in enumerate(lit_model.step_predictions(batch, [3])[0]):
        adapted = lit_model.adapted_model(batch.support_x[task], batch.support_y[task], 3, 9, transductive)
        torch.testing.assert_close(adapted(batch.query_x[task]), expected.detach(), rtol=1e-9, atol=1e-10)
        head = adapted.get_submodule(lit_model.head)
        assert isinstance(head, nn.Linear) and head.out_features == 9
    assert all(torch.equal(value, before[name]) for name, value in lit_model.state_dict().items())


def test_it_trains_wider_than_it_tests():
    """Eight classes in training, three in the test, in chunks of one task; each chunk adds its part of the gradient."""
    torch.manual_seed(1)
    weights = []
    for tasks_at_once in (1, 2):
        torch.manual_seed(0)
        lit_model = LitProtoMAML(
            Conv4((3, 16, 16), 5, width=6), inner_lr=RATE, inner_loop_steps=2, tasks_at_once=tasks_at_once, outer_lr=0.1
        ).double()
        trainer = bare_trainer(max_steps=1, precision="64-true")
        start = torch.nn.utils.parameters_to_vector(lit_model.parameters()).detach().clone()
        trainer.fit(lit_model, DataLoader([episodes(8)], batch_size=None))
        weights.append(torch.nn.utils.parameters_to_vector(lit_model.parameters()).detach())
        assert (weights[-1] - start).norm() > 1e-2
        trainer.test(lit_model, DataLoader([episodes(3)], batch_size=None), verbose=False)
        assert lit_model.results.loss.shape == (2, 11)
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-10)


def test_the_learner_takes_as_many_classes_as_there_are():
    """Clusters of pixels are told apart without any training, whatever their number."""
    centres, names = torch.rand(12, 3, 16, 16), [f"class {i}" for i in range(12)]
    learner = ProtoMAML(Conv4((3, 16, 16), 5, width=8), inner_lr=0.01, test_inner_loop_steps=3)
    for n in (2, 12):
        x = centres[:n].repeat(3, 1, 1, 1)
        adapted = learner.adapt(x + 0.01 * torch.randn_like(x), names[:n] * 3)
        assert list(adapted.predict(centres[:n] + 0.01)) == names[:n]
        assert adapted.predict_proba(centres[:2]).shape == (2, n)


class OneShot(pl.LightningDataModule):
    support_samples = 1

    def train_dataloader(self):
        return DataLoader([episodes(5, shots=1)], batch_size=None)


def test_a_later_task_may_have_other_shots_than_the_training():
    learner, (x, labels, others, *_) = ProtoMAML(Conv4((3, 16, 16), 5, width=6)), episodes(3, shots=5, tasks=1)

    def answer(of):
        return of.adapt(x[0], labels[0].numpy(), steps=2).predict_proba(others[0])

    answers = []
    ask = pl.callbacks.LambdaCallback(on_train_end=lambda *_: answers.append(answer(learner)))
    learner.lit_model.double()
    learner.fit(OneShot(), trainer=bare_trainer(max_steps=1, callbacks=[ask]))
    never_trained = ProtoMAML(Conv4((3, 16, 16), 5, width=6))
    never_trained.lit_model.double().load_state_dict(learner.lit_model.state_dict())
    for found in (*answers, answer(learner)):
        np.testing.assert_allclose(found, answer(never_trained), rtol=1e-9)


def test_logits_are_of_full_precision_under_autocast():
    lit_model = LitProtoMAML(Conv4((3, 16, 16), 5, width=6)).float()
    for p in lit_model.parameters():
        p.data *= 3  # larger features: a logit is a difference of larger numbers
    batch = EpisodeBatch(*(x.float() if x.is_floating_point() else x for x in episodes(3)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (logits,) = lit_model.step_predictions(batch, [0])
        prototypes = lit_model.initial_weights(batch.support_x, batch.support_y)["head.weight"].double() / 2
        embedded = lit_model.embed(batch.query_x).double()
    oracle = 2 * embedded @ prototypes.mT - prototypes.square().sum(-1)[:, None]
    torch.testing.assert_close(logits.double(), oracle, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("cls", [LitProtoNet, LitProtoMAML])
def test_the_outer_step_is_one_graph(cls):
    """For ``--compile``, which would else run it as it is."""
    lit_model = cls(SinusoidMLP((3, 16, 16), 5, width=4))
    lit_model.compile_outer_step()
    lit_model.shots = 2  # as a Trainer sets it
    batch = episodes(3)
    compiled = torch.compile(lit_model.outer_scores, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(batch).loss, lit_model.outer_scores(batch).loss)


@pytest.mark.parametrize("cls", [LitProtoNet, LitProtoMAML])
def test_samples_that_fill_a_task_up_are_of_no_class(cls, float64):
    lit_model = cls(SinusoidMLP((3, 16, 16), 5, width=4).double()).eval()
    batch = episodes(3)
    more_x = torch.cat([batch.support_x, torch.rand_like(batch.support_x[:, :2])], dim=1)
    more_y = torch.cat([batch.support_y, torch.full_like(batch.support_y[:, :2], IGNORED)], dim=1)
    ours, oracle = (
        lit_model.step_scores(b, [0, 0 if cls is LitProtoNet else 2])
        for b in (batch._replace(support_x=more_x, support_y=more_y), batch)
    )
    for padded, plain in zip(ours, oracle, strict=True):
        torch.testing.assert_close(padded.loss, plain.loss, rtol=1e-10, atol=1e-12)
        assert torch.equal(padded.metric, plain.metric)


def test_what_has_no_classes_or_no_body_is_refused():
    with pytest.raises(BadInput, match="LitProtoMAML needs classes"):
        LitProtoMAML(SinusoidMLP(), metric="mse", loss="mse_loss")
    with pytest.raises(BadInput, match="LitProtoMAML needs a model's body, and Linear has only a head"):
        LitProtoMAML(nn.Linear(2, 2))
