"""The learner from Python: it is its algorithm, predicts what the algorithm predicts, and takes what people have."""

import copy
import functools
import inspect
import pickle
import signal
from dataclasses import MISSING, fields

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import BatchNormMLP, bare_trainer, write_random_class_folders
from PIL import Image
from pytorch_lightning.accelerators import MPSAccelerator
from torch.utils.data import DataLoader

import few_shot
from few_shot import (
    ANIL,
    IMAML,
    MAML,
    ImageFolders,
    MAMLPlusPlus,
    MetaSGD,
    ProtoMAML,
    ProtoNet,
    Reptile,
    Sinusoid,
    load,
)
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput, TrainingDiverged
from few_shot.learner import LEARNERS
from few_shot.lit_models import LitMAML
from few_shot.lit_models.ensemble import LitEnsemble
from few_shot.lit_models.trainer_settings import one_device
from few_shot.models import Conv4, SinusoidMLP

MEMBERS = pytest.mark.parametrize("cls", LEARNERS, ids=lambda cls: cls.__name__)
SHAPE = (3, 16, 16)


def small_conv(outputs=3):
    torch.manual_seed(0)
    return Conv4(SHAPE, outputs, width=4)


def arguments_of(lit_class):
    """Every argument that an algorithm uses, with its default, from the signatures of its class and bases."""
    found = {}
    for base in lit_class.__mro__:
        if "__init__" in base.__dict__ and base.__module__.startswith("few_shot."):
            for p in list(inspect.signature(base.__dict__["__init__"]).parameters.values())[1:]:
                if p.kind is not p.VAR_KEYWORD:
                    found.setdefault(p.name, p.default)
    return {name: default for name, default in found.items() if name not in {"model", *lit_class.unused}}


@MEMBERS
def test_a_learners_fields_are_its_algorithms_arguments(cls):
    own = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
    assert own == arguments_of(cls.lit_class)
    described = " ".join(base.__doc__ or "" for base in cls.__mro__)
    assert not [name for name in own if f"{name}:" not in described]


@pytest.mark.parametrize("model_and_batch", ["SinusoidMLP", "Conv4", "Conv4-finn", "ResNet12"], indirect=True)
def test_predictions_are_the_algorithms_own_where_no_query_sees_another(model_and_batch):
    model, _, batch = model_and_batch
    learner = MAML(model, inner_lr=0.05, transductive=False)
    for task, expected in enumerate(learner.lit_model.step_predictions(batch, [3])[0]):
        adapted = learner.adapt(batch.support_x[task], batch.support_y[task].numpy(), steps=3)
        torch.testing.assert_close(adapted.outputs(batch.query_x[task]), expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(adapted.model(batch.query_x[task]), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cls", [MAML, ANIL, MetaSGD, IMAML])
def test_a_score_is_of_the_tasks_classes_alone_as_an_adapted_models_answers_are(cls, float64):
    learner = cls(small_conv(outputs=5), transductive=False)
    torch.nn.init.constant_(learner.lit_model.model.head.bias[3:], 9.0)  # what is never asked for would win
    x, y = torch.rand(2, 6, *SHAPE), torch.arange(3).repeat(2, 2)
    queries, labels = torch.rand(2, 12, *SHAPE), torch.arange(3).repeat(2, 4)
    episodes = [EpisodeBatch(x, y, queries, labels, torch.arange(2))]
    score = learner.score(episodes, steps=2)
    right = [
        np.mean(learner.adapt(x[task], y[task].numpy(), steps=2).predict(queries[task]) == labels[task].numpy())
        for task in range(2)
    ]
    assert score.results.metric[:, -1].tolist() == right and min(right) > 0
    assert bare_trainer().predict(learner.lit_model, DataLoader(episodes, batch_size=None))[0].shape == (2, 12, 3)


@pytest.mark.parametrize("statistics", [False, True])
def test_mamls_plus_plus_batch_norm_is_at_its_last_step(statistics, float64):
    learner = MAMLPlusPlus(small_conv(), inner_loop_steps=2, per_step_bn_statistics=statistics, transductive=False)
    for norm in learner.lit_model.norms:  # rows that differ
        for p in norm.parameters():
            torch.nn.init.normal_(p, 1.0, 0.2)
        if statistics:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    learner.lit_model.eval()
    x, y = torch.rand(6, *SHAPE), torch.arange(3).repeat(2)
    batch = EpisodeBatch(x[None], y[None], torch.rand(1, 4, *SHAPE), torch.zeros(1, 4, dtype=torch.int64), y[:1])
    for steps in (0, 1, 2, 4):
        expected = learner.lit_model.step_predictions(batch, [steps])[0][0]
        outputs = learner.adapt(x, y, steps=steps).outputs(batch.query_x[0])
        torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-11)


@MEMBERS
def test_one_answer_does_not_depend_on_the_others(cls, float64):
    torch.manual_seed(1)
    learner = cls(small_conv())
    before = copy.deepcopy(learner.lit_model.state_dict())
    x = torch.rand(9, *SHAPE)
    adapted = learner.adapt(x[:6], ["cat", "dog", "dog", "emu", "dog", "cat"])  # three dogs, one emu
    assert list(adapted.classes) == ["cat", "dog", "emu"]
    together, alone = adapted.predict_proba(x), np.concatenate([adapted.predict_proba(x[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(together, alone, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(together.sum(1), 1)
    assert list(adapted.predict(x)) == [adapted.classes[i] for i in together.argmax(1)]
    assert set(adapted.predict(x)) <= {"cat", "dog", "emu"}
    for name, value in learner.lit_model.state_dict().items():
        assert torch.equal(value, before[name]), "the initialisation stays as it is"
    if cls is not MAMLPlusPlus:  # whose statistics are its own
        seen = learner.adapt(x[:6], list("abbcba"), transductive=True)
        assert not np.allclose(seen.predict_proba(x)[:2], seen.predict_proba(x[:2]))


def test_labels_come_back_as_they_were_given():
    learner, x = MAML(small_conv()), torch.rand(4, *SHAPE)
    for labels in (
        [7, 3, 7, -1],
        np.array(["b", "a", "b", "a"]),
        torch.tensor([2, 2, 0, 1]),
        [True, False, True, True],
    ):
        found = learner.adapt(x, labels, steps=30).predict(x)
        assert found.dtype == np.asarray(labels).dtype and set(found) <= set(np.asarray(labels))
    with pytest.raises(BadInput, match="There are 4 samples x and 3 labels y"):
        learner.adapt(x, [0, 1, 2])
    with pytest.raises(BadInput, match=r"There are 4 classes, and the model has 3 outputs: ProtoNet and ProtoMAML"):
        learner.adapt(x, [0, 1, 2, 3])
    assert ProtoNet(small_conv()).adapt(x, [0, 1, 2, 3]).predict_proba(x).shape == (4, 4)


def test_regression_takes_and_gives_plain_numbers():
    learner = MAML(SinusoidMLP())
    adapted = learner.adapt([0.0, 1.0, 2.0], [0.5, 0.1, -0.5], steps=1)
    assert adapted.classes is None and adapted.predict([0.5, 1.5]).shape == (2,)
    assert learner.adapt(torch.rand(3, 1), torch.rand(3, 1), steps=1).predict(np.zeros((2, 1))).shape == (2, 1)
    with pytest.raises(BadInput, match="no probabilities"):
        adapted.predict_proba([0.5])
    with pytest.raises(BadInput, match=r"shape \[3, 2\]: the model takes \[n, 1\]"):
        learner.adapt(np.zeros((3, 2)), [0.0, 1.0, 2.0])


def test_fit_is_the_algorithm_under_a_trainer_and_goes_on():
    torch.manual_seed(0)
    model = SinusoidMLP()
    other = LitMAML(copy.deepcopy(model), inner_loop_steps=1)
    learner = MAML(model, inner_loop_steps=1).fit(Sinusoid(support_samples=5), max_steps=8)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    pl.Trainer(max_steps=8, limit_val_batches=0, **quiet).fit(other, datamodule=Sinusoid(support_samples=5))
    for a, b in zip(learner.lit_model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    before = [p.detach().clone() for p in model.parameters()]
    learner.fit(Sinusoid(support_samples=5), max_steps=1)
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_fit_and_score_take_any_episode_batches():
    data = Sinusoid(support_samples=5, test_episodes=12, batch_size=4)
    batches = [data.draw("train", 0, np.arange(4 * i, 4 * i + 4)) for i in range(3)]
    batches = [EpisodeBatch(*(t.float() if t.is_floating_point() else t for t in batch)) for batch in batches]
    learner = MAML(SinusoidMLP(), inner_loop_steps=1).fit(batches, max_steps=5)
    assert learner.lit_model.trainer.global_step == 5  # the three batches, and two of them again
    score = learner.score(batches, steps=2)
    assert [row.step for row in score.per_step] == [0, 1, 2] and score.metric == "mse"
    assert (score.mean, score.ci95) == (score.per_step[-1].mean, score.per_step[-1].ci95)
    by_hand = np.mean(
        [
            (learner.adapt(x, y, steps=2).predict(qx) - qy.numpy()) ** 2
            for b in batches
            for x, y, qx, qy, _ in zip(*b, strict=True)
        ]
    )
    assert score.mean == pytest.approx(by_hand, rel=1e-4)
    assert learner.score(data).per_step[-1].step == 10 and len(learner.score(data, steps=0).results.index) == 12


def test_what_fails_leaves_a_learner_that_answers():
    data = Sinusoid(support_samples=5, batch_size=2, test_episodes=2)
    learner = MAML(SinusoidMLP(), outer_lr=1e30)
    with pytest.raises(TrainingDiverged):
        learner.fit(data, max_steps=5)
    assert not learner.lit_model.training
    learner = MAML(SinusoidMLP())
    learner.score(data)
    with pytest.raises(BadInput, match="no episode"):
        learner.score([])
    with pytest.raises(BadInput, match="no test episode"):
        learner.score(NoTest(support_samples=5))


class NoTest(Sinusoid):
    def test_dataloader(self):
        return []


@MEMBERS
def test_a_saved_learner_comes_back(cls, tmp_path):
    torch.manual_seed(0)
    options = {"outer_lr": 0.01} | ({} if cls is ProtoNet else {"inner_loop_steps": 2, "test_inner_loop_steps": 3})
    learner = cls(small_conv(), **options)
    learner.save(tmp_path / "learner.ckpt")
    again = load(tmp_path / "learner.ckpt")
    assert type(again) is cls and again.outer_lr == 0.01
    assert {f.name: getattr(again, f.name) for f in fields(cls) if f.name not in ("model", "metric", "loss")} == {
        f.name: getattr(learner, f.name) for f in fields(cls) if f.name not in ("model", "metric", "loss")
    }
    x = torch.rand(5, *SHAPE)
    found = [one.adapt(x, list("abcab")).predict_proba(x) for one in (learner, again)]
    np.testing.assert_array_equal(*found)


def test_numbers_of_numpy_and_shapes_of_tensors_are_remembered(tmp_path):
    model = Conv4(torch.rand(1, 3, 16, 16).shape[1:], np.int64(3), width=torch.tensor(4))
    MAML(model, inner_lr=np.float32(0.25), inner_loop_steps=np.int64(2)).save(tmp_path / "learner.ckpt")
    again = load(tmp_path / "learner.ckpt")
    assert (again.inner_lr, again.inner_loop_steps) == (0.25, 2)
    assert again.adapt(torch.rand(3, *SHAPE), [0, 1, 2]).predict(torch.rand(2, *SHAPE)).shape == (2,)


@pytest.mark.parametrize(("first", "name"), [(ProtoNet, "LitProtoNet"), (MAMLPlusPlus, "LitMAMLPlusPlus")])
@pytest.mark.parametrize("second", [ProtoNet, ProtoMAML, MAML, MAMLPlusPlus])
def test_a_module_whose_layers_a_learner_has_changed_is_of_no_use_to_another(first, name, second):
    model = small_conv()
    first(model)
    with pytest.raises(BadInput, match=f"{name} has changed the layers of this Conv4"):
        second(model)
    for _ in range(2):
        MAML(another := small_conv())
        MAML(another)


def test_data_that_ends_is_refused():
    learner = MAML(SinusoidMLP(width=4), inner_loop_steps=1)
    data = Sinusoid(support_samples=5, batch_size=2)
    batches = [data.prepare(data.draw("train", 0, np.arange(i, i + 2)), "train", torch.float32) for i in range(3)]
    with pytest.raises(BadInput, match="The data holds no episode"):
        learner.fit([], max_steps=2)
    with pytest.raises(BadInput, match="can be gone through only once"):
        learner.fit(iter(batches), max_steps=5)
    learner.fit(batches, max_steps=5).fit(iter(batches), max_steps=3)


def test_a_second_fit_sees_other_tasks():
    learner, seen = MAML(SinusoidMLP(width=4), inner_loop_steps=1), []
    outer_scores = learner.lit_model.outer_scores

    def watched(batch):
        seen.extend(batch.index.tolist())
        return outer_scores(batch)

    learner.lit_model.outer_scores = watched
    data = Sinusoid(support_samples=5, batch_size=2)
    learner.fit(data, max_steps=3).fit(data, max_steps=2)
    trainer = bare_trainer(max_steps=2)
    learner.fit(data, trainer=trainer)
    trainer.fit_loop.epoch_loop.max_steps = 4
    learner.fit(data, trainer=trainer)  # which goes on
    learner.fit(Sinusoid(support_samples=5, batch_size=5), max_steps=2).fit(data, max_steps=1)
    assert seen == list(range(2 * (3 + 2 + 4) + 5 * 2 + 2))


class NormAndActivation(torch.nn.BatchNorm2d):
    """As timm has it."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = torch.nn.Identity(), torch.nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def with_norms(*norms):
    torch.manual_seed(0)
    end = (torch.nn.Flatten(), torch.nn.Linear(6 * 14 * 14, 3))
    return torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), *norms, *end)


def test_a_batch_norm_keeps_the_activation_that_it_holds():
    x, y, new = torch.rand(6, *SHAPE), torch.arange(3).repeat(2), torch.rand(4, *SHAPE)
    learner = MAML(with_norms(NormAndActivation(6)), transductive=False, inner_lr=0.1)
    own = learner.lit_model.step_predictions(EpisodeBatch(*(t[None] for t in (x, y, new, y[:4], y[:1]))), [2])[0][0]
    torch.testing.assert_close(learner.adapt(x, y, steps=2).outputs(new), own, rtol=1e-4, atol=1e-5)
    assert any(isinstance(m, torch.nn.ReLU) for m in MAMLPlusPlus(with_norms(NormAndActivation(6))).model.modules())


def test_a_batch_norm_that_is_used_twice_is_refused_and_one_that_is_not_used_is_left():
    x, y = torch.rand(6, *SHAPE), torch.arange(3).repeat(2)
    norm = torch.nn.BatchNorm2d(6)
    with pytest.raises(BadInput, match="Sequential holds one layer with weights as 1 and as 3: name it once"):
        MAML(with_norms(norm, torch.nn.ReLU(), norm))
    bare = torch.nn.BatchNorm2d(6, affine=False)
    with pytest.raises(BadInput, match="Sequential holds one batch norm as 1 and as 3: name it once"):
        MAML(with_norms(bare, torch.nn.ReLU(), bare))
    learner = MAML(with_norms(Twice()))
    with pytest.raises(BadInput, match=r"Sequential uses its batch norm 1\.norm more than once"):
        learner.adapt(x, y, steps=1)
    assert learner.adapt(x, y, steps=1, transductive=True).predict(x).shape == (6,)
    assert MAML(WithAnUnusedNorm()).adapt(x, y, steps=0).predict(x).shape == (6,)


class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(self.norm(x).relu())


class WithAnUnusedNorm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.unused, self.used = torch.nn.BatchNorm2d(2), with_norms(torch.nn.BatchNorm2d(6))

    def forward(self, x):
        return self.used(x)


def test_a_model_that_is_double_already_is_fitted_and_scored():
    data = Sinusoid(support_samples=5, batch_size=2, test_episodes=2)
    learner = MAML(SinusoidMLP(width=4).double(), inner_loop_steps=1).fit(data, max_steps=1)
    assert learner.score(data).mean > 0


class OwnEpisodes(pl.LightningDataModule):
    """Two samples of one class and one of another, whatever support_samples says."""

    support_samples = 1

    def train_dataloader(self):
        x, y = torch.rand(2, 3, *SHAPE), torch.tensor([[0, 0, 1]] * 2)
        return torch.utils.data.DataLoader([EpisodeBatch(x, y, x, y, torch.arange(2))], batch_size=None)


def test_classes_of_unequal_size_in_data_of_ones_own():
    ProtoNet(small_conv()).fit(OwnEpisodes(), max_steps=1)


def test_norms_that_are_joined_over_processes_are_refused():
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(with_norms(torch.nn.BatchNorm2d(6)))
    with pytest.raises(BadInput, match=r"sync_batchnorm=True\) cannot work"):
        MAML(model).fit(OwnEpisodes(), max_steps=1)


def test_what_is_not_finite_is_no_answer():
    learner = MAML(small_conv(), inner_lr=1e30, inner_loop_steps=1)
    x = torch.rand(6, *SHAPE)
    adapted = learner.adapt(x, list("abcabc"), steps=10)
    for ask in (adapted.predict, adapted.predict_proba):
        with pytest.raises(BadInput, match="outputs are not finite: take fewer inner steps"):
            ask(x)
    with pytest.raises(BadInput, match="There are no samples x to adapt to"):
        learner.adapt(x[:0], [])


def test_a_learner_of_half_precision_answers():
    data = Sinusoid(support_samples=5, batch_size=2)
    learner = MAML(SinusoidMLP(width=4), inner_loop_steps=1).fit(
        data, trainer=bare_trainer(max_steps=1, precision="bf16-true")
    )
    assert learner.adapt([0.0, 1.0], [0.0, 1.0], steps=1).predict([0.5]).dtype == np.float32
    learner = MAML(small_conv().bfloat16())
    x = torch.rand(3, *SHAPE)
    assert learner.adapt(x, list("abc"), steps=1).predict_proba(x).shape == (3, 3)


smoothed = functools.partial(torch.nn.functional.cross_entropy, label_smoothing=0.1)
huber = torch.nn.SmoothL1Loss()


def tasks_of(ways, number, seed):
    """Tasks of so many classes, ``[number, 2 * ways, 2]``, each class around a point of its own."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(ways).repeat(number, 2)
    points = torch.rand(number, ways, 2, generator=rng).repeat(1, 2, 1)
    x = [points + 0.1 * torch.rand(points.shape, generator=rng) for _ in range(2)]
    return EpisodeBatch(x[0], y, x[1], y, torch.arange(number) + seed)


@pytest.mark.parametrize("loss", [None, "test_learner.smoothed"])
@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("cls", [MAML, ProtoNet])
def test_a_task_scores_the_same_beside_tasks_of_other_ways(cls, ensemble, loss):
    torch.manual_seed(0)
    lit_model = cls(SinusoidMLP((2,), 3, width=8), loss=loss).lit_model
    judge = LitEnsemble(lit_model, [lit_model.state_dict()] * 2) if ensemble else lit_model
    few, many = tasks_of(2, 3, seed=0), tasks_of(3, 2, seed=10)
    pad = torch.full((3, 2), -100)  # samples that do not count, so that both have as many
    longer = [torch.cat([x, x[:, :2]], 1) for x in (few.support_x, few.query_x)]
    y = torch.cat([few.support_y, pad], 1)
    padded = EpisodeBatch(longer[0], y, longer[1], y, few.index)
    both = EpisodeBatch(*(torch.cat(pair)[[3, 0, 1, 4, 2]] for pair in zip(padded, many, strict=True)))
    together = judge.step_scores(both, [0, 1])
    apart = [judge.step_scores(tasks, [0, 1]) for tasks in (padded, many)]
    for step, found in enumerate(together):
        for values, *parts in zip(found, *(scores[step] for scores in apart), strict=True):
            torch.testing.assert_close(values, torch.cat(parts)[[3, 0, 1, 4, 2]])
            assert values.isfinite().all()


def test_whole_batches_come_from_a_list_or_from_a_loader():
    batches = [tasks_of(2, 3, seed) for seed in (0, 3)]
    learners = [MAML(SinusoidMLP((2,), 2, width=8)) for _ in range(2)]
    learners[1].lit_model.load_state_dict(learners[0].lit_model.state_dict())
    for learner, data in zip(learners, (batches, DataLoader(batches, batch_size=None)), strict=True):
        learner.fit(data, max_steps=2)
    for own, other in zip(*(learner.lit_model.parameters() for learner in learners), strict=True):
        torch.testing.assert_close(own, other)
    for ask in (functools.partial(learners[0].fit, max_steps=1), learners[0].score):
        with pytest.raises(BadInput, match=r"support_x \[1, 3, 4, 2\].* index \[1, 3\].* needs batch_size=None"):
            ask(DataLoader(batches))
    uneven = batches[0]._replace(support_y=batches[0].support_y[:, 1:])
    with pytest.raises(BadInput, match="as many x as y"):
        learners[0].score([uneven])


def test_a_loss_may_be_any_callable():
    x = torch.rand(3, *SHAPE)
    own, plain = (MAML(small_conv(), loss=loss, inner_lr=0.5) for loss in ("test_learner.smoothed", None))
    found = [learner.adapt(x, list("abc"), steps=1).predict_proba(x) for learner in (own, plain)]
    assert not np.allclose(*found)
    learner = MAML(SinusoidMLP(width=4), loss="test_learner.huber", inner_loop_steps=1)
    learner.fit(Sinusoid(support_samples=5, batch_size=2), max_steps=1)


def test_a_learner_that_was_fitted_can_be_pickled():
    learner = MAML(SinusoidMLP(width=4), inner_loop_steps=1).fit(Sinusoid(support_samples=5, batch_size=2), max_steps=1)
    assert learner.lit_model.folded_layers is not None
    again = pickle.loads(pickle.dumps(learner))
    task = ([0.0, 1.0, 2.0], [0.0, 1.0, 0.5])
    np.testing.assert_array_equal(*(one.adapt(*task).predict([0.3, 0.4]) for one in (learner, again)))


def test_inputs_of_any_number_of_channels():
    learner, x = MAML(Conv4((4, 16, 16), 2, width=4)), torch.rand(4, 4, 16, 16)
    assert learner.adapt(x, list("abab")).predict(x).shape == (4,)
    assert learner.adapt(x.numpy(), list("abab")).predict(x[0:1]).shape == (1,)


def test_a_macs_gpu_is_left_alone(monkeypatch):
    assert one_device()["accelerator"] == "auto"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert one_device()["accelerator"] == "cpu"
    trainer = bare_trainer(max_steps=1)
    trainer.strategy.accelerator = MPSAccelerator()
    with pytest.raises(BadInput, match="use accelerator='cpu'"):
        trainer.fit(LitMAML(SinusoidMLP()), datamodule=Sinusoid(support_samples=5))


def test_a_model_of_ones_own_must_be_given(tmp_path):
    learner = MAML(BatchNormMLP((1,), 1), inner_lr=0.2, inner_loop_steps=3, metric="mse")
    learner.save(tmp_path / "own.ckpt")
    with pytest.raises(BadInput, match=r"give model= to load them into"):
        load(tmp_path / "own.ckpt")
    again = load(tmp_path / "own.ckpt", model=BatchNormMLP((1,), 1))
    assert (again.inner_lr, again.inner_loop_steps) == (0.2, 3)
    with pytest.raises(BadInput, match="holds the weights of another model"):
        load(tmp_path / "own.ckpt", model=SinusoidMLP())
    with pytest.raises(BadInput, match=r"no\.ckpt does not exist"):
        load(tmp_path / "no.ckpt")
    with pytest.raises(BadInput, match="is no run's folder with checkpoints"):
        load(tmp_path)


@pytest.fixture
def photos(tmp_path):
    return write_random_class_folders(tmp_path / "photos", classes=5, images=6)


def test_pictures_in_every_form_are_one(photos, tmp_path):
    data = ImageFolders(
        str(photos), image_size=32, test_query_samples=2, query_samples=2, test_episodes=4, batch_size=1
    )
    torch.manual_seed(0)
    learner = ANIL(Conv4((3, 32, 32), 5, width=4)).fit(data, max_steps=1)
    learner.save(tmp_path / "photos.ckpt")
    learner = load(tmp_path / "photos.ckpt")
    paths = sorted((photos / "test").glob("*/*.png"))[:8]
    labels = [path.parent.name for path in paths]
    forms = {
        "paths": paths,
        "names": [str(path) for path in paths],
        "pil": [Image.open(path) for path in paths],
        "arrays": [np.asarray(Image.open(path)) for path in paths],
        "tensors": [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths],
        "floats": [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255 for path in paths],
    }
    found = {form: learner.adapt(x, labels, steps=2).predict_proba(x[0]) for form, x in forms.items()}
    for form, probabilities in found.items():
        np.testing.assert_allclose(probabilities, found["paths"], atol=1e-6, err_msg=form)
    data.setup("test")
    names = data.stores["test"].class_names
    assert learner.lit_model.data_facts["classes"]["test"] == names
    batch = data.prepare(data.draw("test", 0, np.arange(1)), "test", torch.float32)
    assert learner.adapt(batch.support_x[0], batch.support_y[0]).predict(batch.query_x[0]).shape == (10,)


def test_a_learner_that_was_not_fitted_takes_pictures_at_the_models_size(photos):
    paths = sorted((photos / "test").glob("*/*.png"))[:4]
    assert MAML(small_conv()).adapt(paths, list("abab")).predict(paths).shape == (4,)
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(BadInput, match="does not know how large its pictures are"):
        MAML(torch.nn.Sequential(*own, torch.nn.Linear(2, 2))).adapt(paths, list("abab"))


def test_everything_public_is_there_and_training_is_not_needed():
    assert all(hasattr(few_shot, name) for name in few_shot.__all__)
    assert {MAML, MetaSGD, IMAML, Reptile} <= {getattr(few_shot, name) for name in few_shot.__all__}


def own_loss(predictions, targets):
    return torch.nn.functional.mse_loss(predictions, targets) * 2


def test_a_loss_is_a_function_too(tmp_path):
    learner = MAML(SinusoidMLP(width=4), loss=own_loss, inner_loop_steps=1)
    learner.fit(Sinusoid(batch_size=2), max_steps=1).save(tmp_path / "own.ckpt")
    assert MAML(SinusoidMLP(), loss=torch.nn.functional.l1_loss).loss == "torch.nn.functional.l1_loss"
    with pytest.raises(BadInput, match="give loss="):
        load(tmp_path / "own.ckpt")
    assert load(tmp_path / "own.ckpt", loss=own_loss).lit_model.objective.loss_name == learner.loss
    with pytest.raises(BadInput, match="cannot be named in a checkpoint"):
        MAML(SinusoidMLP(), loss=torch.nn.HuberLoss())


@pytest.mark.parametrize(
    "given",
    [{"outer_schedule": "linear"}, {"outer_optimizer": "rmsprop"}, {"inner_optimizer": "lion"}, {"metric": "f1"}],
    ids=str,
)
def test_an_unknown_choice_is_refused_at_once(given):
    ((name, value),) = given.items()
    with pytest.raises(BadInput, match=f"{name}={value} is unknown: choose one of"):
        MAML(SinusoidMLP(), **given)


def test_an_argument_cannot_be_changed_without_effect():
    learner = MAML(SinusoidMLP())
    with pytest.raises(BadInput, match="outer_lr cannot be changed later: give it when you build the MAML"):
        learner.outer_lr = 0.5


def test_targets_that_would_broadcast_are_refused():
    x, y = torch.rand(4, 4, 1), torch.rand(4, 4)
    with pytest.raises(BadInput, match=r"predictions have the shape \[4, 1\], and the targets \[4\]"):
        MAML(SinusoidMLP()).fit([EpisodeBatch(x, y, x, y, torch.arange(4))], max_steps=1)
    with pytest.raises(BadInput, match="must be alike"):
        MAML(torch.nn.Linear(1, 2)).adapt([[1.0], [2.0]], [1.0, 2.0])


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (tuple(torch.rand(2, 3, 1) for _ in range(5)), "The data gives batches of type tuple of Tensor"),
        (EpisodeBatch(*[np.zeros((2, 3, 1))] * 5), "The data gives batches of type EpisodeBatch of ndarray"),
        (torch.rand(3), "The data gives batches of type Tensor"),
    ],
)
def test_batches_of_another_form_are_refused(batch, sentence):
    with pytest.raises(BadInput, match=sentence):
        MAML(SinusoidMLP()).fit([batch], max_steps=1)


def test_batches_of_another_number_type_are_taken():
    x, y = torch.rand(2, 6, *SHAPE, dtype=torch.float64), torch.arange(3).repeat(2).expand(2, -1).int()
    batch = EpisodeBatch(x, y, x, y, torch.arange(2))
    for learner in (MAML(small_conv()), ProtoNet(small_conv())):
        assert learner.fit([batch], max_steps=1).score([batch], steps=0).metric == "accuracy"
        assert learner.lit_model.metric == "accuracy"


def test_labels_that_do_not_count_from_zero_are_refused():
    x, y = torch.rand(2, 2, *SHAPE), torch.tensor([[5, 6], [5, 6]])
    for learner in (MAML(small_conv()), ProtoNet(small_conv())):
        with pytest.raises(BadInput, match="label the N classes of a task from 0 to N-1"):
            learner.fit([EpisodeBatch(x, y, x, y, torch.arange(2))], max_steps=1)


def test_labels_may_be_floating_point_numbers():
    """As in a column of a table."""
    x, y = torch.rand(4, *SHAPE), [5.0, 5.0, 6.0, 6.0]
    assert set(ProtoNet(small_conv()).adapt(x, y).predict(x)) <= {5.0, 6.0}


def test_a_learner_is_saved_where_and_as_it_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    learner = MAML(small_conv())
    for path in ("~/new/folder/a.ckpt", tmp_path / "b.safetensors"):
        learner.save(path)
        loaded = load(path).lit_model.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in learner.lit_model.state_dict().items())


def test_a_trainer_tests_a_saved_learner(tmp_path):
    waves, learner = Sinusoid(test_episodes=2), MAML(SinusoidMLP(width=4))
    learner.save(tmp_path / "a.ckpt")
    expected = learner.score(waves, steps=10).mean
    other = LitMAML(SinusoidMLP(width=4))
    bare_trainer().test(other, datamodule=waves, ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert other.results.mean_metric("mse")[0] == pytest.approx(expected, rel=1e-6)


def test_it_adapts_in_inference_mode():
    learner, x = MAML(small_conv()), torch.rand(3, *SHAPE)
    expected = learner.adapt(x, [0, 1, 2], steps=1).predict_proba(x)
    with torch.inference_mode():
        assert np.allclose(learner.adapt(x + 0, [0, 1, 2], steps=1).predict_proba(x), expected)


class Interrupts(pl.Callback):
    def on_train_batch_end(self, *_):
        raise KeyboardInterrupt


def test_ctrl_c_is_ctrl_c():
    handler = signal.getsignal(signal.SIGINT)
    trainer = pl.Trainer(
        max_steps=3, callbacks=[Interrupts()], logger=False, enable_checkpointing=False, accelerator="cpu"
    )
    with pytest.raises(KeyboardInterrupt):
        MAML(SinusoidMLP(width=4)).fit(Sinusoid(batch_size=2), trainer=trainer)
    assert signal.getsignal(signal.SIGINT) is handler


def test_proto_net_adapts_transductively_as_it_is_scored():
    learner = ProtoNet(small_conv())
    x, y = torch.rand(1, 6, *SHAPE), torch.arange(3).repeat(2)[None]
    batch = EpisodeBatch(x, y, torch.rand(1, 4, *SHAPE), y[:, :4], torch.arange(1))
    with torch.no_grad():
        scored = learner.lit_model.logits(batch, transductive=True)[0]
    adapted = learner.adapt(x[0], y[0], transductive=True).outputs(batch.query_x[0])
    torch.testing.assert_close(adapted, scored, rtol=1e-5, atol=1e-5)


def test_pictures_beyond_the_range_are_refused(tmp_path):
    write_random_class_folders(tmp_path, classes=9, images=6)
    photos = ImageFolders(
        data_dir=str(tmp_path), image_size=16, episode_classes=2, query_samples=1, test_query_samples=1
    )
    learner = MAML(Conv4(SHAPE, 2, width=4)).fit(photos, max_steps=1)
    with pytest.raises(BadInput, match="floating point values outside 0 to 1"):
        learner.read(torch.full((2, *SHAPE), 255.0))
    prepared = torch.rand(2, *SHAPE)
    assert torch.equal(learner.read(list(prepared)), prepared)
    names = np.array([str(path) for path in sorted(tmp_path.rglob("*.png"))[:2]])
    assert learner.read(names).shape == (2, *SHAPE)


def test_a_plot_sets_up_its_data_and_says_what_it_cannot_draw(tmp_path):
    pytest.importorskip("matplotlib")
    write_random_class_folders(tmp_path, classes=3, images=4)
    sizes = {"image_size": 16, "episode_classes": 2, "query_samples": 1, "test_query_samples": 1}
    learner = MAML(Conv4(SHAPE, 2, width=4))
    assert learner.plot(ImageFolders(data_dir=str(tmp_path), **sizes), steps=[1]).axes
    with pytest.raises(BadInput, match="The tasks of a list cannot be drawn"):
        learner.plot([])
    with pytest.raises(BadInput, match="episode=-1 is too small"):
        learner.plot(Sinusoid(), episode=-1)
    wave = MAML(SinusoidMLP(width=4).double())
    assert wave.plot(Sinusoid(), steps=[0, 1]).axes


def test_a_score_on_classes_that_were_trained_on_is_refused(tmp_path):
    write_random_class_folders(tmp_path, classes=12, images=4)
    sizes = {"data_dir": str(tmp_path / "train"), "image_size": 16, "episode_classes": 2, "query_samples": 1}
    sizes |= {"test_query_samples": 1, "test_episodes": 3}
    learner = ProtoNet(small_conv()).fit(ImageFolders(**sizes), max_steps=1)
    assert learner.score(ImageFolders(**sizes)).mean is not None
    learner.save(tmp_path / "a.ckpt")
    with pytest.raises(BadInput, match=r"The model was trained on .* of the test split"):
        load(tmp_path / "a.ckpt").score(ImageFolders(**sizes, split_seed=1))
    again = load(tmp_path / "a.ckpt").fit(ImageFolders(**sizes, split_seed=1), max_steps=1)
    again.save(tmp_path / "b.ckpt")
    for learner in (again, load(tmp_path / "b.ckpt")):  # neither forgets the classes of the first fit
        with pytest.raises(BadInput, match=r"The model was trained on .* of the test split"):
            learner.score(ImageFolders(**sizes, split_seed=1))


@pytest.mark.parametrize("cls", [MAML, ProtoNet])
def test_a_fit_that_was_interrupted_leaves_nothing_of_its_tasks(cls, tmp_path):
    """A plot of tasks with other shots is as if there had been no fit."""
    pytest.importorskip("matplotlib")
    write_random_class_folders(tmp_path, classes=6, images=6)
    sizes = {"data_dir": str(tmp_path), "image_size": 16, "episode_classes": 2, "query_samples": 1}
    learner = cls(Conv4(SHAPE, 2, width=4))
    plain = copy.deepcopy(learner)
    trainer = pl.Trainer(max_steps=2, callbacks=[Interrupts()], logger=False, enable_checkpointing=False)
    with pytest.raises(KeyboardInterrupt):
        learner.fit(ImageFolders(**sizes, test_query_samples=1, support_samples=1), trainer=trainer)
    learner.lit_model.load_state_dict(plain.lit_model.state_dict())
    photos = ImageFolders(**sizes, test_query_samples=1, support_samples=3)
    ours, oracle = ([t.get_text() for t in one.plot(photos).axes[0].texts] for one in (learner, plain))
    assert ours == oracle


def test_proto_net_keeps_a_support_set_of_its_own():
    learner, x = ProtoNet(small_conv()), np.random.default_rng(0).random((6, *SHAPE), np.float32)
    adapted, new = learner.adapt(x, [0, 1, 2] * 2, transductive=True), torch.rand(4, *SHAPE)
    before = adapted.predict_proba(new)
    x[:] = 0
    assert np.array_equal(adapted.predict_proba(new), before)


class Tied(torch.nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Linear(4, 4, bias=False) for _ in range(2))
        self.second.weight = self.first.weight
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


@pytest.mark.parametrize("file", ["a.ckpt", "a.safetensors"])
def test_a_model_with_one_weight_under_two_names_is_saved(file, tmp_path):
    learner = MAML(Tied(), metric="accuracy")
    learner.save(tmp_path / file)
    loaded = load(tmp_path / file, model=Tied()).lit_model.model
    assert torch.equal(loaded.second.weight, learner.model.first.weight) and loaded.first.weight is loaded.second.weight


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.table(x).mean(-2))


@pytest.mark.parametrize("as_given", [torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.int])
def test_a_model_of_words_takes_whole_numbers(as_given):
    words, y = torch.randperm(20)[:18].view(1, 6, 3), torch.tensor([[0, 1, 2] * 2])  # none in two samples
    learner = MAML(Words(), inner_lr=0.5).fit([EpisodeBatch(words, y, words, y, torch.tensor([0]))], max_steps=2)
    adapted = learner.adapt(as_given(words[0]), list("abc" * 2), steps=30)
    assert "".join(adapted.predict(as_given(words[0]))) == "abc" * 2


def test_targets_of_regression_may_be_whole_numbers():
    x, y = torch.rand(1, 6, 1), torch.arange(6)[None, :, None]
    batches = [[EpisodeBatch(x, targets, x, targets, torch.tensor([0]))] for targets in (y, y.float())]
    learners = [MAML(SinusoidMLP(width=4), loss="mse_loss", metric="mse") for _ in batches]
    learners[1].lit_model.load_state_dict(learners[0].lit_model.state_dict())
    ours, oracle = (one.fit(of, max_steps=2).score(of).mean for one, of in zip(learners, batches, strict=True))
    assert ours == oracle


def of_bytes():
    x, y = torch.zeros(1, 3, *SHAPE, dtype=torch.uint8), torch.arange(3)[None]
    return EpisodeBatch(x, y, x, y, torch.arange(1))


def without_support():
    batch = tasks_of(2, 1, seed=0)
    return batch._replace(support_x=batch.support_x[:, :0], support_y=batch.support_y[:, :0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ProtoNet(torch.nn.Identity()), "Identity has no weights"),
        (lambda: MAML(torch.nn.Flatten()), "Flatten has no weights"),
        (lambda: MAML(small_conv(), inner_lr="0.01"), "inner_lr='0.01' must be a number"),
        (lambda: MAML(small_conv(), inner_lr=torch.ones(2)), r"inner_lr=tensor\(\[1\., 1\.\]\) must be a number"),
        (lambda: MetaSGD(small_conv(), inner_lr_max=-1), "inner_lr_max=-1 must be above 0"),
        (lambda: MetaSGD(small_conv(), inner_lr_max=float("inf")), "inner_lr_max=inf must be finite"),
        (lambda: MAML(small_conv(), outer_lr=None), "outer_lr=None must be a number"),
        (lambda: MAML(small_conv(), weight_decay="no"), "weight_decay='no' must be a number"),
        (lambda: MAML(small_conv(), first_order="no"), "first_order='no' must be True or False"),
        (lambda: MAML(small_conv(), loss=torch.nn.MSELoss), "loss=MSELoss is a class: give a function"),
        (lambda: MAML(small_conv()).fit([without_support()]), "tasks without a support sample: each needs at least"),
        (lambda: ImageFolders(augment="no"), "augment='no' must be True or False"),
        (lambda: ImageFolders(skip_bad_images="false"), "skip_bad_images='false' must be True or False"),
        (lambda: MAML(small_conv()).fit(None), "The data is None: give a data module"),
        (lambda: MAML(small_conv()).fit(5), "The data is 5: give a data module"),
        (lambda: MAML(small_conv()).score(Sinusoid), "The data is the class Sinusoid: give a data module, such as"),
        (lambda: MAML(small_conv()).fit("photos"), "The data is the path photos: give ImageFolders"),
        (
            lambda: MAML(small_conv()).fit(Sinusoid()),
            r"built for inputs \[3, 16, 16\], and the data gives \[1\]: build",
        ),
        (lambda: MAML(small_conv()).score([of_bytes()]), "inputs of type uint8: .* divide them by 255"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(BadInput, match=sentence):
        call()


def test_one_sample_that_batch_norm_cannot_use_is_refused():
    learner = MAML(BatchNormMLP((1,), 1), metric="mse")
    adapted = learner.adapt(torch.rand(4, 1), [1.0, 2.0, 3.0, 4.0], steps=1, transductive=True)
    with pytest.raises(BadInput, match="too few samples x for the model's batch norm"):
        adapted.predict(torch.rand(1, 1))


def test_a_plot_takes_one_number_of_steps():
    pytest.importorskip("matplotlib")
    (axis,) = MAML(SinusoidMLP(width=4)).plot(Sinusoid(), steps=3).axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert [label.partition(",")[0] for label in labels[2:]] == ["before adaptation", "after 3 steps"]


def test_a_trainer_that_trains_copies_is_refused():
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", devices=2, strategy="ddp_fork", logger=False)
    with pytest.raises(BadInput, match="starts its processes as copies"):
        MAML(SinusoidMLP(width=4)).fit(Sinusoid(batch_size=2), trainer=trainer)


def test_what_is_no_trainer_is_refused():
    with pytest.raises(BadInput, match=r"trainer=cpu is no pytorch_lightning\.Trainer"):
        MAML(SinusoidMLP(width=4)).fit(Sinusoid(), trainer="cpu")


@pytest.mark.parametrize(
    ("labels", "sentence"), [([1, 2, "cat"], "partly text and partly not"), ([1, 2, np.nan], "are NaN or infinite")]
)
def test_labels_of_no_use_are_refused(labels, sentence):
    with pytest.raises(BadInput, match=sentence):
        ProtoNet(small_conv()).adapt(torch.rand(3, *SHAPE), labels)


def test_inner_steps_are_refused_where_there_are_none():
    learner, x, y = ProtoNet(small_conv()), torch.rand(3, *SHAPE), [0, 1, 2]
    for use in (lambda: learner.adapt(x, y, steps=3), lambda: learner.score([], steps=3)):
        with pytest.raises(BadInput, match="steps=3 is of no use: LitProtoNet has no inner steps"):
            use()
    assert list(learner.adapt(x, y, steps=0).classes) == y


def test_no_progress_is_shown_unless_wanted(capfd):
    learner, data = MAML(SinusoidMLP(width=4)), Sinusoid(test_episodes=25)
    learner.fit(data, max_steps=1, verbose=False).score(data, verbose=False)
    assert capfd.readouterr() == ("", "")
    learner.fit(data, max_steps=1).score(data)
    shown = "".join(capfd.readouterr())
    assert "Epoch 0" in shown and "Testing" in shown


def test_a_support_set_that_batch_norm_cannot_use_is_refused():
    learner = ProtoNet(Conv4((1, 16, 16), 2, width=4, downsample="stride"))
    with pytest.raises(BadInput, match="too few samples x for the model's batch norm"):
        learner.adapt(torch.rand(1, 1, 16, 16), ["a"])


@pytest.mark.parametrize("cls", [MAML, MetaSGD, MAMLPlusPlus, ProtoNet])
def test_what_was_frozen_is_frozen_in_a_loaded_learner(cls, tmp_path):
    model = small_conv()
    frozen = [name for name, p in model.body.named_parameters() if p.requires_grad_(False) is p]
    learner = cls(model)
    learner.save(tmp_path / "learner.ckpt")
    loaded = load(tmp_path / "learner.ckpt")
    assert [name for name, p in loaded.model.named_parameters() if not p.requires_grad] == [f"body.{n}" for n in frozen]
    x, y = torch.rand(3, *SHAPE), torch.arange(3)
    assert torch.equal(learner.adapt(x, y).outputs(x), loaded.adapt(x, y).outputs(x))


def test_layers_that_are_frozen_too_late_are_refused():
    learner = MetaSGD(small_conv())
    learner.model.body.requires_grad_(False)
    with pytest.raises(BadInput, match=r"MetaSGD was built with 18 parameters to adapt, .* and now there are 2:"):
        learner.adapt(torch.rand(3, *SHAPE), [0, 1, 2])


def test_nothing_to_adapt_is_said():
    for cls in (MAML, IMAML):
        with pytest.raises(BadInput, match="There is nothing to adapt"):
            cls(small_conv().requires_grad_(False)).adapt(torch.rand(3, *SHAPE), [0, 1, 2])


class Pixels(torch.nn.Sequential):
    """Its body has no weights: the prototypes are means of pixels."""

    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(4, 3))


def test_a_body_without_weights_has_prototypes():
    x = torch.tensor([[0.0, 0, 0, 0], [1, 1, 1, 1]])
    assert ProtoNet(Pixels()).adapt(x, ["a", "b"]).predict(x + 0.1).tolist() == ["a", "b"]


class InPlace(Pixels):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


@pytest.mark.parametrize("model", [InPlace, lambda: torch.nn.Sequential(torch.nn.ReLU(inplace=True), Pixels())])
def test_a_model_that_changes_its_input_is_refused(model):
    with pytest.raises(BadInput, match="changes its input in place, which each inner step reads again"):
        MAML(model()).adapt(torch.rand(3, 4), [0, 1, 2])


class OwnNorm(Pixels):
    def forward(self, x):
        return super().forward(torch.nn.functional.batch_norm(x, None, None, training=True))


def test_a_batch_norm_that_is_no_layer_looks_at_its_neighbours_or_is_refused():
    x, y = torch.rand(6, 4), torch.arange(3).repeat(2)
    learner = MAML(OwnNorm())
    with pytest.raises(BadInput, match=r"OwnNorm calls F\.batch_norm itself"):
        learner.adapt(x, y)
    assert learner.adapt(x, y, transductive=True).predict(x).shape == (6,)


def test_a_loss_of_numbers_takes_whole_numbers_for_numbers():
    x, numbers = torch.rand(2, 4, 1), torch.arange(8).view(2, 4, 1)
    whole, floating = (EpisodeBatch(x, y, x, y, torch.arange(2)) for y in (numbers, numbers.float()))
    for loss in ("smooth_l1_loss", "l1_loss", "mse_loss"):
        learner = MAML(SinusoidMLP(width=4), loss=loss)
        ours, oracle = (learner.score([batch], steps=2) for batch in (whole, floating))
        assert (ours.metric, ours.mean) == ("mse", oracle.mean)
        with pytest.raises(BadInput, match="they must be alike"):
            learner.score([whole._replace(support_y=numbers[..., 0], query_y=numbers[..., 0])])


@pytest.mark.parametrize("cls", [MAML, ProtoNet])
def test_labels_of_another_form_are_refused(cls):
    batch = tasks_of(2, 3, seed=0)
    for y, found in ((batch.query_y[..., None], r"\[3, 4, 1\] of type int64"), (batch.query_y.float(), "float32")):
        with pytest.raises(BadInput, match=f"The data gives support_y .*{found}: labels of classes are whole numbers"):
            cls(BatchNormMLP((2,), 2), metric="accuracy").score([batch._replace(support_y=y, query_y=y)])


def test_proto_net_learns_from_tasks_of_other_ways_beside_each_other():
    """Each is padded to the same number of samples; alone they give the gradient that they give together."""
    two, three = tasks_of(2, 1, seed=1), tasks_of(3, 1, seed=2)
    padded = []
    for name, x in two._asdict().items():
        if name != "index":
            fill = x[:, :2] if name.endswith("_x") else torch.full((1, 2), -100)
            x = torch.cat([x, fill], dim=1)
        padded.append(x)
    two = EpisodeBatch(*padded)
    both = EpisodeBatch(*(torch.cat(pair) for pair in zip(two, three, strict=True)))
    torch.manual_seed(0)
    lit_model = ProtoNet(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))).lit_model
    together = lit_model.outer_scores(both).loss
    alone = torch.cat([lit_model.outer_scores(batch).loss for batch in (two, three)])
    torch.testing.assert_close(together, alone)
    parameters = list(lit_model.parameters())
    gradients = (torch.autograd.grad(losses.mean(), parameters) for losses in (together, alone))
    for ours, oracle in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, oracle)


class Scores(pl.Callback):
    """Scores learners between two updates of a training."""

    def __init__(self, data, *learners):
        self.data, self.learners = data, learners

    def on_train_batch_end(self, *_):
        for learner in self.learners:
            learner.score(self.data, steps=1)


def test_a_score_within_a_training_leaves_the_training_as_it_is(tmp_path):
    images = write_random_class_folders(tmp_path, classes=3, images=4)
    weights = []
    for scores in (False, True):
        data = few_shot.MiniImagenet(data_dir=str(images), episode_classes=2, query_samples=2, test_query_samples=2)
        data.test_episodes, data.batch_size = 2, 2
        torch.manual_seed(0)
        learner, other = (MAML(Conv4((3, 84, 84), 2, width=2), inner_loop_steps=1) for _ in range(2))
        callbacks = [Scores(data, learner, other)] if scores else []
        learner.fit(data, trainer=bare_trainer(max_steps=3, callbacks=callbacks))
        weights.append(torch.nn.utils.parameters_to_vector(learner.model.parameters()))
    assert torch.equal(*weights)


def test_a_fit_that_fails_leaves_a_learner_that_answers(tmp_path):
    images = write_random_class_folders(tmp_path, classes=3, images=4)
    wrong = few_shot.MiniImagenet(data_dir=str(images), episode_classes=2, query_samples=2, test_query_samples=2)
    right = Sinusoid(support_samples=5, batch_size=2, test_episodes=3)
    fresh, trained = (MAML(SinusoidMLP(width=4), inner_loop_steps=1) for _ in range(2))
    before = trained.fit(right, max_steps=1).score(right, steps=1).mean
    for learner in (fresh, trained):
        with pytest.raises(BadInput):
            learner.fit(wrong, max_steps=1)
    assert trained.score(right, steps=1).mean == before
    assert trained.adapt([1.0, 2.0], [1.0, 2.0], steps=1).predict([1.5]).shape == (1,)
    assert fresh.fit(right, max_steps=1).score(right, steps=1).metric == "mse"
