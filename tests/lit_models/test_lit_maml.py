"""One outer update through Lightning's Trainer, against the plain loop."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from helpers import bare_trainer
from oracles import meta_gradient, relative_error

from few_shot.data import Sinusoid
from few_shot.episodes import IGNORED, EpisodeBatch
from few_shot.errors import BadInput, TrainingDiverged
from few_shot.lit_models import LitMAML, LitProtoNet
from few_shot.lit_models.chunks import chunks as chunks_of
from few_shot.models import Conv4, SinusoidMLP


def log_cosh(prediction, target):
    """A loss of the user's own."""
    return torch.log(torch.cosh(prediction - target)).mean()


def infinite(prediction, target):
    return F.mse_loss(prediction, target) / 0


@pytest.fixture
def data():
    return Sinusoid(support_samples=4, batch_size=3, val_episodes=5, test_episodes=5)


def lit_maml(**arguments):
    torch.manual_seed(0)
    arguments = {
        "loss": "mse_loss",
        "metric": "mse",
        "outer_optimizer": "sgd",
        "outer_lr": 1.0,
        "inner_lr": 0.1,
    } | arguments
    return LitMAML(SinusoidMLP(width=8), **arguments)


def train(lit_model, data, steps=1, **arguments):
    trainer = bare_trainer(max_steps=steps, precision="64-true", **arguments)
    trainer.fit(lit_model, datamodule=data)
    return trainer


def flat(model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().double()


def oracle_gradient(lit_model, data, loss=F.mse_loss, update=0):
    model = lit_model.model.double()
    batch = data.prepare(data.draw("train", data.seed, 3 * update + np.arange(3)), "train", torch.float64)
    return meta_gradient(model, loss, batch, lit_model.inner_loop_steps, lit_model.inner_lr, lit_model.first_order)


@pytest.mark.parametrize("first_order", [False, True])
def test_an_outer_update_is_the_plain_loops(data, first_order):
    lit_model = lit_maml(first_order=first_order, inner_loop_steps=2)
    gradient, start = oracle_gradient(lit_model, data), flat(lit_model)
    train(lit_model, data)
    assert relative_error(start - flat(lit_model), gradient) < 1e-10


def test_a_loss_of_the_users_own_by_name(data):
    lit_model = lit_maml(loss="test_lit_maml.log_cosh")
    gradient, start = oracle_gradient(lit_model, data, log_cosh), flat(lit_model)
    train(lit_model, data)
    assert relative_error(start - flat(lit_model), gradient) < 1e-10


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping(data, algorithm):
    bound = 0.01
    lit_model = lit_maml(gradient_clip_val=bound, gradient_clip_algorithm=algorithm)
    gradient, start = oracle_gradient(lit_model, data), flat(lit_model)
    train(lit_model, data)
    clipped = gradient.clamp(-bound, bound) if algorithm == "value" else gradient * bound / gradient.norm()
    assert gradient.norm() > 10 * bound
    torch.testing.assert_close(start - flat(lit_model), clipped, rtol=1e-4, atol=1e-9)


def test_cosine_schedule_by_hand(data):
    lit_model = lit_maml(outer_schedule="cosine", outer_lr=0.01)
    trainer = train(lit_model, data, steps=4)
    assert [lit_model.outer_rate(update) for update in (0, 2, 4)] == pytest.approx([0.01, 0.005, 0], abs=1e-12)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * (1 - 2**-0.5) / 2)  # of the last update


def test_halving_schedule_by_hand(data):
    lit_model = lit_maml(outer_schedule="halving", outer_lr=0.008)
    train(lit_model, data, steps=20)
    rates = [lit_model.outer_rate(update) for update in (0, 1, 2, 3, 4, 19)]
    assert rates == [0.008, 0.008, 0.004, 0.004, 0.002, 0.008 / 2**9]


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(data):
    lit_model = lit_maml(loss="test_lit_maml.infinite")
    start = flat(lit_model)
    with pytest.raises(TrainingDiverged, match=r"loss of update 1 is not finite \(training tasks 0 to 2\)"):
        train(lit_model, data)
    assert torch.equal(flat(lit_model), start)


def test_the_tasks_of_a_loss_that_is_not_finite_are_named():
    assert str(TrainingDiverged("loss", 3, [4, 7, 8, 9])).endswith("(training tasks 4, 7 to 9).")


def test_a_gradient_that_is_not_finite_stops_too(data):
    lit_model = lit_maml()
    lit_model.model[1].weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingDiverged, match="gradient of update 1"):
        train(lit_model, data)


def spoil(lit_model, *updates):
    """Make the gradient of these updates, counted from 1, not a number."""
    bias = lit_model.model[1].bias
    bias.register_hook(lambda gradient: gradient * (float("nan") if lit_model.global_step + 1 in updates else 1))


def test_a_skipped_update_leaves_the_weights_and_counts(data):
    lit_model = lit_maml(max_skipped_updates=1, weight_decay=0.1)
    spoil(lit_model, 1)
    start = flat(lit_model)
    with pytest.warns(match=r"^The gradient of update 1 is not finite \(training tasks 0 to 2\)\. The update is skip"):
        trainer = train(lit_model, data)
    assert torch.equal(flat(lit_model), start)
    assert trainer.global_step == 1


def test_the_update_after_a_skipped_one_has_its_own_tasks(data):
    lit_model = lit_maml(max_skipped_updates=1)
    spoil(lit_model, 1)
    start = flat(lit_model)
    with pytest.warns(match="update 1 .* skipped"):
        train(lit_model, data, steps=2)
    assert relative_error(start - flat(lit_model), oracle_gradient(lit_maml(), data, update=1)) < 1e-10


def test_a_skipped_update_leaves_the_optimiser_as_it_is(data):
    lit_model = lit_maml(max_skipped_updates=1, outer_optimizer="adam", outer_lr=0.1)
    spoil(lit_model, 2)
    with pytest.warns(match="update 2 .* skipped"):
        trainer = train(lit_model, data, steps=2)
    only_first = lit_maml(outer_optimizer="adam", outer_lr=0.1)
    trainer_of_first = train(only_first, data)
    assert torch.equal(flat(lit_model), flat(only_first))
    found, expected = (t.optimizers[0].state_dict()["state"] for t in (trainer, trainer_of_first))
    assert all(torch.equal(found[i][key], expected[i][key]) for i in expected for key in expected[i])


@pytest.mark.parametrize(("spoilt", "stops_at"), [((1, 2), None), ((1, 2, 4, 5), None), ((1, 2, 4, 5, 6), 6)])
@pytest.mark.filterwarnings("ignore:The gradient of update")
def test_so_many_updates_in_a_row_may_be_skipped(data, spoilt, stops_at):
    lit_model = lit_maml(max_skipped_updates=2, outer_lr=0.001)
    spoil(lit_model, *spoilt)
    if stops_at is None:
        assert train(lit_model, data, steps=7).global_step == 7
    else:
        with pytest.raises(TrainingDiverged, match=f"gradient of update {stops_at} "):
            train(lit_model, data, steps=7)
    assert torch.isfinite(flat(lit_model)).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_skipped_updates": -1},
        {"inner_loop_steps": 0},
        {"test_inner_loop_steps": -1},
        {"outer_lr": 0.0},
        {"gradient_clip_val": -1.0},
        {"weight_decay": -0.1},
        {"loss": "no_such_loss"},
        {"loss": "no.such.loss"},
    ],
)
def test_impossible_values_are_named(arguments):
    with pytest.raises(BadInput, match=f"^{next(iter(arguments))}="):
        lit_maml(**arguments)


def test_zero_test_steps_score_the_initialisation(data):
    lit_model = lit_maml(test_inner_loop_steps=0)
    trainer = pl.Trainer(accelerator="cpu", logger=False, inference_mode=False, enable_progress_bar=False)
    trainer.test(lit_model, datamodule=data, verbose=False)
    batch = data.prepare(data.draw("test", 0, np.arange(5)), "test", torch.float32)
    with torch.no_grad():
        expected = [F.mse_loss(lit_model.model(x), y).item() for x, y in zip(batch.query_x, batch.query_y, strict=True)]
    np.testing.assert_allclose(lit_model.results.loss[:, 0], expected, rtol=1e-5)
    assert lit_model.results.steps == [0]


def test_gradients_that_are_large_but_finite_go_on(data):
    """Their squares would not be: 1e25 is clipped, not refused."""
    lit_model = lit_maml(gradient_clip_val=1.0, gradient_clip_algorithm="value")
    lit_model.model[1].weight.register_hook(lambda gradient: gradient.sign() * 1e25)
    start = flat(lit_model)
    train(lit_model, data)
    assert 0 < (flat(lit_model) - start).abs().max() <= 1


@pytest.mark.parametrize("transductive", [True, False])
def test_transductive_or_not(transductive):
    """Whether an episode's result depends on which of its queries are judged together."""
    torch.manual_seed(0)
    lit_model = LitMAML(Conv4((1, 16, 16), 2, width=4), transductive=transductive, inner_lr=0.1).double().eval()
    x, y = torch.rand(1, 8, 1, 16, 16, dtype=torch.float64), torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    support = torch.rand(1, 2, 1, 16, 16, dtype=torch.float64), torch.tensor([[0, 1]])

    def loss(queries):
        batch = EpisodeBatch(*support, x[:, queries], y[:, queries], torch.tensor([0]))
        return lit_model.step_scores(batch, [2])[0].loss.item()

    together = loss(list(range(8)))
    apart = sum(loss([i]) for i in range(8)) / 8
    assert (together == pytest.approx(apart, rel=1e-9)) != transductive


class Patches(torch.nn.Module):
    """Its batch norm sees a picture's rows as samples of their own."""

    def __init__(self, size):
        super().__init__()
        self.embed, self.norm = torch.nn.Linear(4, size), torch.nn.BatchNorm1d(size)
        self.head = torch.nn.Linear(size, 3)

    def forward(self, x):
        rows = self.norm(self.embed(x.flatten(0, 1))).relu()
        return self.head(rows.unflatten(0, x.shape[:2]).mean(1))


@pytest.mark.parametrize("cls", [LitMAML, LitProtoNet])
def test_batch_norm_over_a_samples_parts_takes_those_of_the_support_set(cls):
    torch.manual_seed(0)
    lit_model = cls(Patches(6), transductive=False).double().eval()
    x, y = torch.rand(1, 9, 5, 4, dtype=torch.float64), torch.arange(3)[None]
    batch = EpisodeBatch(x[:, :3], y, x[:, 3:], y.repeat(1, 2), torch.tensor([0]))
    adapted = lit_model.adapted_model(x[0, :3], y[0], 1)
    torch.testing.assert_close(lit_model.test_predictions(batch, [1])[0][0], adapted(x[0, 3:]))


def test_tasks_with_other_numbers_of_classes_score_as_by_themselves():
    torch.manual_seed(0)
    lit_model = LitMAML(SinusoidMLP(output_size=5), inner_lr=0.3, metric="accuracy").double().eval()
    x, query_x = torch.randn(2, 3, 6, 1, dtype=torch.float64)
    y = torch.tensor([[0, 1, 2, 3, 4, 0], [0, 0, 0, 1, 1, 1], [4, 3, 2, 1, 0, 0]])
    batch = EpisodeBatch(x, y, query_x, y, torch.arange(3))
    for step, together in zip((0, 2), lit_model.step_scores(batch, [0, 2]), strict=True):
        for i, alone in enumerate(batch.chunks(1)):
            (scores,) = lit_model.step_scores(alone, [step])
            assert together.loss[i].item() == pytest.approx(scores.loss.item(), rel=1e-12)
            assert together.metric[i] == scores.metric[0]


@pytest.mark.parametrize("loss", ["cross_entropy", None])
def test_samples_that_fill_a_task_up_do_not_count(loss):
    torch.manual_seed(0)
    lit_model = LitMAML(SinusoidMLP(output_size=3), inner_lr=0.3, loss=loss, metric="accuracy").double().eval()
    x, query_x = torch.randn(2, 1, 6, 1, dtype=torch.float64)
    y = torch.tensor([[0, 1, 2, 2, IGNORED, IGNORED]])
    padded = EpisodeBatch(x, y, query_x, y, torch.tensor([0]))
    batch = EpisodeBatch(x[:, :4], y[:, :4], query_x[:, :4], y[:, :4], torch.tensor([0]))
    ours, oracle = (lit_model.step_scores(b, [3])[0] for b in (padded, batch))
    assert ours.loss.item() == pytest.approx(oracle.loss.item(), rel=1e-12)
    assert ours.metric == oracle.metric


def test_evaluation_episodes_do_not_depend_on_the_seed_of_the_training():
    loaders = [Sinusoid(seed=seed, val_episodes=3, test_episodes=3) for seed in (0, 1)]
    for name in ("val_dataloader", "test_dataloader"):
        one, other = (list(getattr(data, name)()) for data in loaders)
        assert all(torch.equal(a.query_x, b.query_x) for a, b in zip(one, other, strict=True))
    train_x = [next(iter(data.train_dataloader())).query_x for data in loaders]
    assert not torch.equal(*train_x)
    other_eval = next(iter(Sinusoid(eval_seed=1, test_episodes=3).test_dataloader()))
    assert not torch.equal(other_eval.query_x, next(iter(loaders[0].test_dataloader())).query_x)


def test_beats_joint_training_on_the_sinusoid():
    """After 1500 updates MAML's error after 5 steps is under half of a jointly trained network's (here 0.6 to 2.4)."""
    data = Sinusoid(support_samples=10, test_episodes=200)
    torch.manual_seed(0)
    maml = LitMAML(SinusoidMLP(), loss="mse_loss", metric="mse", inner_loop_steps=1)
    torch.manual_seed(0)
    joint = LitMAML(SinusoidMLP(), loss="mse_loss", metric="mse", inner_loop_steps=1)
    optimizers = [torch.optim.Adam(m.model.parameters(), lr=1e-3) for m in (maml, joint)]
    for update in range(1500):
        batch = data.prepare(data.draw("train", 0, 25 * update + np.arange(25)), "train", torch.float32)
        losses = [
            maml.outer_scores(batch).loss.mean(),
            F.mse_loss(joint.model(batch.query_x.flatten(0, 1)), batch.query_y.flatten(0, 1)),
        ]
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    test = data.prepare(data.draw("test", 0, np.arange(200)), "test", torch.float32)
    maml_mse, joint_mse = (m.step_scores(test, [5])[0].metric.mean().item() for m in (maml, joint))
    assert maml_mse < 0.5 * joint_mse
    assert joint_mse > 1.5


@pytest.mark.parametrize(("size", "chunks"), [(84, [2, 2]), (32, [4]), (200, [1, 1, 1, 1])])
def test_large_tasks_are_computed_a_few_at_a_time(size, chunks):
    """1-shot tasks of four with 15 queries a class: two fit at 84 pixels, all at 32, and one always does."""
    image = torch.zeros(()).expand(4, 80, 3, size, size)
    labels = torch.zeros(4, 80)
    batch = EpisodeBatch(image[:, :5], labels[:, :5], image[:, 5:], labels[:, 5:], torch.arange(4))
    assert [len(chunk.index) for chunk in chunks_of(batch, None)] == chunks
    assert len(chunks_of(batch, 4)) == 1
