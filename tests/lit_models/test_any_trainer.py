"""A Lightning Trainer with its own defaults, and what a checkpoint gives back."""

import subprocess
import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from helpers import ROOT, write_random_class_folders
from torch import nn
from torch.utils.data import DataLoader

import few_shot.lit_models
from few_shot.data import Sinusoid
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.lit_models import LitANIL, LitMAML, LitMAMLPlusPlus, LitProtoMAML, LitProtoNet, LitRandom, LitReptile
from few_shot.lit_models.base import LitMetaLearner
from few_shot.models import Conv4, SinusoidMLP


def data(**arguments):
    return Sinusoid(**{"support_samples": 4, "batch_size": 3, "val_episodes": 5, "test_episodes": 7} | arguments)


def trainer(folder, **arguments):
    """Lightning's defaults, but for what would fill the terminal."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{"default_root_dir": folder, "max_steps": 4} | quiet | arguments)


def last_checkpoint(trainer):
    return trainer.checkpoint_callback.best_model_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    lit_model, waves = LitMAML(SinusoidMLP(width=8), inner_lr=0.1, inner_loop_steps=2), data()
    fitted = trainer(tmp_path_factory.mktemp("logs"))
    fitted.fit(lit_model, datamodule=waves)
    return lit_model, waves, fitted


def test_it_trains_as_the_plain_loop_says(trained):
    """With the data module's loss, which the constructor was not told."""
    lit_model, waves, _ = trained
    torch.manual_seed(0)
    model = SinusoidMLP(width=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for update in range(4):
        batch = waves.prepare(waves.draw("train", 0, 3 * update + np.arange(3)), "train", torch.float32)
        optimizer.zero_grad()
        maml = LitMAML(model, loss="mse_loss", metric="mse", inner_lr=0.1, inner_loop_steps=2)
        maml.outer_scores(batch).loss.mean().backward()
        optimizer.step()
    for ours, oracle in zip(lit_model.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, oracle, rtol=1e-4, atol=1e-6)


def test_validate_test_and_predict(trained):
    """In Lightning's inference mode, from which adaptation has to get out."""
    lit_model, waves, fitted = trained
    (validated,) = fitted.validate(lit_model, datamodule=waves, verbose=False)
    (tested,) = fitted.test(lit_model, datamodule=waves, verbose=False)
    predictions = torch.cat(fitted.predict(lit_model, datamodule=waves))
    batch = waves.prepare(waves.draw("test", 0, np.arange(7)), "test", torch.float32)
    with torch.no_grad():
        *_, fast_weights = lit_model.adapt(batch.support_x, batch.support_y, 10)
        expected = lit_model.predictions_of(batch.query_x)(fast_weights)
    torch.testing.assert_close(predictions, expected, rtol=1e-4, atol=1e-5)
    assert tested["test_mse"] == pytest.approx(F.mse_loss(expected, batch.query_y).item(), rel=1e-4)
    assert {"val_loss", "val_mse", "val_mse_ci95"} <= set(validated)
    assert lit_model.results.index.tolist() == list(range(7))


def test_called_it_predicts_with_the_initial_weights(trained):
    lit_model, _, _ = trained
    x = torch.linspace(-5, 5, 20)[:, None]
    torch.testing.assert_close(lit_model(x), lit_model.model(x))


def test_per_step_batch_norm_is_at_step_0_when_called():
    lit_model = LitMAMLPlusPlus(Conv4((1, 16, 16), 2, width=4), inner_loop_steps=2).eval()
    x, y = torch.rand(1, 4, 1, 16, 16), torch.tensor([[0, 1, 0, 1]])
    before = lit_model(x[0])
    for norm in lit_model.norms:
        norm.running_mean[1:] += 1.0
    list(lit_model.adapt(x, y, 2))
    torch.testing.assert_close(lit_model(x[0]), before)


@pytest.mark.parametrize("algorithm", [a for a in few_shot.lit_models.__all__ if not a.startswith("LitProto")])
def test_a_checkpoint_gives_the_learner_back(algorithm, tmp_path):
    """Its class, its arguments and its model's, without naming any."""
    cls = getattr(few_shot.lit_models, algorithm)
    lit_model = cls(SinusoidMLP(width=7), test_inner_loop_steps=3)
    fitted = trainer(tmp_path, max_steps=2, precision="64-true")
    fitted.fit(lit_model, datamodule=data())
    loaded = LitMetaLearner.load_from_checkpoint(last_checkpoint(fitted))
    assert type(loaded) is cls
    ours, theirs = lit_model.constructor_arguments, loaded.constructor_arguments
    assert theirs | {"model": None, "loss": None, "metric": None} == ours | {"model": None}
    assert (theirs["loss"], theirs["metric"]) == ("mse_loss", "mse")
    for name, value in lit_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    batch = data().draw("test", 0, np.arange(3))
    lit_model.eval()
    for a, b in zip(lit_model.step_scores(batch, [0, 3]), loaded.step_scores(batch, [0, 3]), strict=True):
        assert torch.equal(a.loss, b.loss)


@pytest.mark.parametrize("cls", [LitProtoNet, LitProtoMAML])
def test_prototypes_come_back_too(cls, tmp_path):
    labels = torch.arange(2).repeat(2, 2)
    images = torch.rand(2, 4, 1, 16, 16)
    episodes = DataLoader([EpisodeBatch(images, labels, images, labels, torch.arange(2))], batch_size=None)
    lit_model = cls(Conv4((1, 16, 16), 2, width=4))
    fitted = trainer(tmp_path, max_steps=1)
    fitted.fit(lit_model, episodes)
    loaded = cls.load_from_checkpoint(last_checkpoint(fitted))
    x = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(loaded(x), lit_model(x))


class Own(nn.Module):
    """A model of the user's own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x):
        return self.layers(x)


class Mine(LitMAML):
    """An algorithm of the user's own, with an argument of its own, that decides one of its base's."""

    def __init__(self, model, answer=42, **maml):
        super().__init__(model, inner_loop_steps=2, metric="mse", **maml)
        self.answer = answer


def half_squared_error(prediction, target):
    return F.mse_loss(prediction, target) / 2


def test_a_model_of_ones_own_is_asked_for_and_the_rest_is_as_it_was_trained(tmp_path):
    fitted = trainer(tmp_path)
    lit_model = LitMAML(Own(), inner_lr=0.2, inner_loop_steps=3, test_inner_loop_steps=4)
    fitted.fit(lit_model, datamodule=data())
    path = last_checkpoint(fitted)
    with pytest.raises(BadInput, match="holds the weights of a model of your own: give model="):
        LitMAML.load_from_checkpoint(path)
    with pytest.raises(BadInput, match="holds the weights of another model"):
        LitMAML.load_from_checkpoint(path, model=SinusoidMLP())
    loaded = LitMAML.load_from_checkpoint(path, model=Own())
    assert (loaded.inner_lr, loaded.inner_loop_steps, loaded.test_inner_loop_steps) == (0.2, 3, 4)
    batch = data().draw("test", 0, np.arange(3))
    batch = EpisodeBatch(*(x.float() for x in batch[:4]), batch.index)
    a, b = (m.eval().step_scores(batch, [4])[0].loss for m in (lit_model, loaded))
    assert torch.equal(a, b)
    assert LitMAML.load_from_checkpoint(path, model=Own(), test_inner_loop_steps=7).test_inner_loop_steps == 7


def test_classes_and_losses_of_ones_own_are_not_imported_from_a_checkpoints_word(tmp_path):
    fitted = trainer(tmp_path)
    fitted.fit(Mine(SinusoidMLP(), answer=1, loss="test_any_trainer.half_squared_error"), datamodule=data())
    path = last_checkpoint(fitted)
    with pytest.raises(BadInput, match=r"holds a test_any_trainer\.Mine, .* call Mine\.load_from_checkpoint"):
        LitMAML.load_from_checkpoint(path)
    with pytest.raises(BadInput, match=r"give loss='test_any_trainer\.half_squared_error'"):
        Mine.load_from_checkpoint(path)
    loaded = Mine.load_from_checkpoint(path, loss="test_any_trainer.half_squared_error")
    assert (loaded.answer, loaded.inner_loop_steps, loaded.metric) == (1, 2, "mse")


def test_another_class_is_named(trained, tmp_path):
    path = last_checkpoint(trained[2])
    with pytest.raises(BadInput, match="holds a LitMAML, which is no LitANIL"):
        LitANIL.load_from_checkpoint(path)
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for name, sentence in (("none.ckpt", "does not exist"), ("text.ckpt", "is no checkpoint")):
        with pytest.raises(BadInput, match=sentence):
            LitMAML.load_from_checkpoint(tmp_path / name)


def test_a_checkpoint_is_plain_values(trained):
    content = torch.load(last_checkpoint(trained[2]), weights_only=True)["few_shot"]
    assert content["learner"]["class"] == "few_shot.lit_models.lit_maml.LitMAML"
    assert content["learner"]["arguments"]["inner_lr"] == 0.1
    assert content["model"]["arguments"]["width"] == 8
    assert content["data"]["class"] == "few_shot.data.sinusoid.Sinusoid"


def test_without_a_data_module_the_targets_say_the_loss_and_the_metric(tmp_path):
    labels = torch.arange(2).repeat(2, 2)
    x = torch.rand(2, 4, 3)
    loader = DataLoader([EpisodeBatch(x, labels, x, labels, torch.arange(2))] * 3, batch_size=None)
    lit_model = LitMAML(SinusoidMLP((3,), 2))
    fitted = trainer(tmp_path)
    fitted.fit(lit_model, loader, loader)
    assert {"val_accuracy", "val_loss"} <= set(fitted.callback_metrics)
    scores = lit_model.outer_scores(next(iter(loader)))
    assert scores.metric.unique().numel() and 0 <= scores.metric.min() <= scores.metric.max() <= 1


class Absolute(Sinusoid):
    """A data module whose loss is its own choice."""

    loss = "l1_loss"


def test_the_data_modules_loss_counts_unless_the_constructor_was_given_one(tmp_path):
    for given, expected in ((None, "l1_loss"), ("smooth_l1_loss", "smooth_l1_loss")):
        lit_model = LitMAML(SinusoidMLP(), loss=given)
        trainer(tmp_path, max_steps=1).fit(lit_model, datamodule=Absolute(batch_size=2, val_episodes=2))
        assert (lit_model.objective.loss_name, lit_model.metric) == (expected, "mse")
        x = torch.rand(2, 4, 1)
        loader = DataLoader([EpisodeBatch(x, x, x, x, torch.arange(2))], batch_size=None)
        trainer(tmp_path).test(lit_model, loader, verbose=False)
        assert (lit_model.objective.loss_name, lit_model.metric) == (expected, "mse")


def test_the_data_modules_loss_comes_back_with_a_class_of_ones_own(tmp_path):
    fitted = trainer(tmp_path, max_steps=1)
    fitted.fit(Mine(SinusoidMLP()), datamodule=Absolute(batch_size=2, val_episodes=2))
    assert Mine.load_from_checkpoint(last_checkpoint(fitted)).objective.loss_name == "l1_loss"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"gradient_clip_val": 1.0}, r"Trainer\(gradient_clip_val=1.0\).* give gradient_clip_val=1.0 to the algorithm"),
        ({"accumulate_grad_batches": 2}, r"Trainer\(accumulate_grad_batches=2\) cannot work: raise .*batch_size"),
        ({"overfit_batches": 1}, r"Trainer\(overfit_batches=1\) cannot work"),
        ({"limit_train_batches": 0.5}, r"Trainer\(limit_train_batches=0.5\) is a share of an epoch"),
        ({"val_check_interval": 0.5}, r"Trainer\(val_check_interval=0.5\) is a share of an epoch"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_work_is_refused_at_the_start(arguments, sentence, tmp_path):
    with pytest.raises(BadInput, match=sentence):
        trainer(tmp_path, **arguments).fit(LitMAML(SinusoidMLP()), datamodule=data())


def test_a_cosine_must_know_its_end(tmp_path):
    with pytest.raises(BadInput, match="outer_schedule=cosine must know the last update: give the Trainer max_steps"):
        trainer(tmp_path, max_steps=-1, max_epochs=-1).fit(
            LitMAML(SinusoidMLP(), outer_schedule="cosine"), datamodule=data()
        )


@pytest.mark.parametrize(
    ("arguments", "logged"), [({}, True), ({"log_every_n_steps": 0}, False), ({"barebones": True}, False)]
)
def test_the_training_loss_is_logged_as_often_as_the_trainer_says(arguments, logged, tmp_path):
    waves = data(batch_size=1)
    batches = [waves.prepare(waves.draw("train", 0, np.arange(i, i + 1)), "train", torch.float32) for i in range(3)]
    quiet = {} if "barebones" in arguments else {"enable_progress_bar": False, "enable_model_summary": False}
    own = pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", max_steps=51, max_epochs=-1, **quiet, **arguments)
    own.fit(LitMAML(SinusoidMLP(width=4), inner_loop_steps=1), DataLoader(batches, batch_size=None))
    assert ("train_loss" in own.callback_metrics) is logged


def test_epochs_of_a_limited_length_go_on_with_new_episodes(tmp_path):
    seen = []

    class Watched(LitMAML):
        def outer_scores(self, batch):
            seen.extend(batch.index.tolist())
            return super().outer_scores(batch)

    fitted = trainer(tmp_path, max_steps=-1, max_epochs=3, limit_train_batches=2)
    fitted.fit(Watched(SinusoidMLP()), datamodule=data())
    assert seen == list(range(3 * 2 * 3))


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
def test_precisions(precision, tmp_path):
    lit_model = LitMAML(SinusoidMLP(), inner_loop_steps=1)
    fitted = trainer(tmp_path, precision=precision)
    fitted.fit(lit_model, datamodule=data())
    (tested,) = fitted.test(lit_model, datamodule=data(), verbose=False)
    assert 0 < tested["test_mse"] < 100


TWO_PROCESSES = """
import json, random, sys, torch, warnings
import numpy as np
import pytorch_lightning as pl
from few_shot import MAML
from few_shot.data import ImageFolders, Sinusoid
from few_shot.lit_models import LitMAML, LitMAMLPlusPlus
from few_shot.models import Conv4
from helpers import BatchNormMLP

def learners(folder):
    outer = {"outer_optimizer": "sgd", "outer_lr": 1e-3}
    maml = LitMAMLPlusPlus(BatchNormMLP((1,), 1), outer_schedule="constant", **outer)
    yield "statistics", maml, Sinusoid(support_samples=4, batch_size=5, val_episodes=5, test_episodes=11)
    ways = {"episode_classes": 2, "query_samples": 1, "test_query_samples": 1, "image_size": 16}
    pictures = ImageFolders(f"{folder}/photos", batch_size=3, val_episodes=3, test_episodes=7, **ways)
    yield "a bias that is not read", LitMAML(Conv4((3, 16, 16), 2, width=4), inner_loop_steps=1, **outer), pictures

if __name__ == "__main__":
    devices, out = int(sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    found = {}
    for name, learner, data in learners(out):
        learner.model.register_buffer("drawn", torch.tensor(random.SystemRandom().random()), persistent=False)
        arguments = {"strategy": "ddp"} if devices > 1 else {}
        trainer = pl.Trainer(
            max_steps=3, accelerator="cpu", devices=devices, precision="64-true", val_check_interval=2, logger=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=out, **arguments,
        )
        trainer.fit(learner, datamodule=data)
        assert learner.model.drawn == trainer.strategy.broadcast(learner.model.drawn)
        (tested,) = trainer.test(learner, datamodule=data, verbose=False)
        weights = torch.cat([w.flatten() for w in learner.state_dict().values()])
        found[name] = {"weights": weights, "index": learner.results.index.tolist(), **tested}
    data = Sinusoid(support_samples=4)
    batch = data.prepare(data.draw("train", 0, np.arange(2)), "train", torch.float64)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        own = pl.Trainer(max_steps=1, accelerator="cpu", devices=devices, precision=64, logger=False, **arguments)
        MAML(BatchNormMLP((1,), 1)).fit([batch], trainer=own)
    found["same tasks"] = any("processes train on the same tasks" in str(each.message) for each in said)
    if trainer.is_global_zero:
        torch.save(found, f"{out}/{devices}.pt")
"""


def test_two_processes_with_lightnings_defaults_are_one(tmp_path):
    """Shares are uneven: eleven test episodes are batches of five and one in one process, of five in the other."""
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    write_random_class_folders(tmp_path / "photos", classes=2, images=2)
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    for devices in (1, 2):
        command = [sys.executable, str(script), str(devices), str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    both = [torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2)]
    assert [found.pop("same tasks") for found in both] == [False, True]
    for name, metric, episodes in (("statistics", "mse", 11), ("a bias that is not read", "accuracy", 7)):
        one, two = (found[name] for found in both)
        assert one["index"] == two["index"] == list(range(episodes))
        torch.testing.assert_close(two["weights"], one["weights"], rtol=1e-10, atol=1e-12)
        assert two[f"test_{metric}"] == pytest.approx(one[f"test_{metric}"], rel=1e-9)


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (LitReptile, {"first_order": True}),
        (LitRandom, {"outer_lr": 0.1}),
        (LitProtoNet, {"test_inner_loop_steps": 3}),
        (few_shot.lit_models.LitIMAML, {"first_order": False}),
        (few_shot.lit_models.LitMetaSGD, {"inner_lr": 0.1}),
        (few_shot.lit_models.LitJoint, {"inner_loop_steps": 1}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else next(iter(value)),
)
def test_an_argument_of_no_use_is_refused(cls, arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(BadInput, match=f"{name}={value} is of no use to {cls.__name__}: "):
        cls(SinusoidMLP(), **arguments)


def test_running_statistics_exclude_transductive_evaluation():
    with pytest.raises(BadInput, match="transductive=true and per_step_bn_statistics=true exclude each other"):
        LitMAMLPlusPlus(model := Conv4((1, 16, 16), 2, width=4), transductive=True)
    assert not LitMAMLPlusPlus(model).transductive, "what was refused has changed nothing"
    assert LitMAMLPlusPlus(Conv4((1, 16, 16), 2, width=4), transductive=True, per_step_bn_statistics=False).transductive


class OwnOptimizer(LitMAML):
    """With an optimiser and a schedule of the user's own."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)]


def test_an_optimizer_of_ones_own_keeps_its_rates(tmp_path):
    lit_model, fitted = OwnOptimizer(SinusoidMLP(width=4)), trainer(tmp_path, max_steps=2, limit_val_batches=0)
    fitted.fit(lit_model, datamodule=data())
    assert fitted.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 * 0.1**2)


class SeveralOptimizers(LitMAML):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.5), torch.optim.SGD(self.parameters(), lr=0.5)]


def test_several_optimizers_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"SeveralOptimizers\.configure_optimizers returns several optimisers"):
        trainer(tmp_path).fit(SeveralOptimizers(SinusoidMLP(width=4)), datamodule=data())


def test_a_learner_that_is_compiled_as_a_whole_is_refused(tmp_path):
    """Which is what fails when Lightning no longer says that it has unwrapped one."""
    learner = LitMAML(SinusoidMLP(width=4))
    with pytest.raises(BadInput, match=r"torch\.compile cannot compile a whole learner: call its compile_outer_step"):
        trainer(tmp_path).fit(torch.compile(learner), datamodule=data())
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(learner, datamodule=data())


def test_a_training_without_an_end_is_refused(tmp_path):
    endless = trainer(tmp_path, max_steps=-1, max_epochs=3, limit_val_batches=0)
    with pytest.raises(BadInput, match=r"Trainer\(max_epochs=3\) would train for ever"):
        endless.fit(LitMAML(SinusoidMLP(width=4)), datamodule=data())


@pytest.mark.parametrize("validation", [{}, {"limit_val_batches": 0}])
def test_early_stopping_ends_nothing_without_a_validation(validation, tmp_path):
    stopping = pl.callbacks.EarlyStopping("val_loss")
    with pytest.raises(BadInput, match="would train for ever"):
        trainer(tmp_path, max_steps=-1, callbacks=[stopping], **validation).fit(LitMAML(SinusoidMLP(width=4)), data())


def test_a_training_without_validation_is_announced(tmp_path):
    with pytest.warns(UserWarning, match="There will be no validation.*val_check_interval"):
        trainer(tmp_path, max_steps=1).fit(LitMAML(SinusoidMLP(width=4)), datamodule=data())


def test_a_test_does_not_change_the_loss_of_the_training(tmp_path):
    lit_model = LitMAML(SinusoidMLP(width=4))
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(lit_model, datamodule=Absolute(batch_size=2))
    trainer(tmp_path).test(lit_model, datamodule=data(), verbose=False)
    assert lit_model.objective.loss_name == "l1_loss"


def test_a_data_module_has_no_say_where_its_trainer_has_got_other_data(tmp_path):
    """Its shots do not tell how many classes the tasks of somebody's own have."""
    folder = write_random_class_folders(tmp_path, classes=3, images=2)
    images = few_shot.data.MiniImagenet(data_dir=str(folder), episode_classes=3, test_query_samples=1, test_episodes=1)
    x = torch.rand(2, 15, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    y = torch.arange(3).repeat(2, 5)
    own = DataLoader([EpisodeBatch(x, y, x, y, torch.arange(2))], batch_size=None)
    results = []
    for before in (False, True):
        torch.manual_seed(0)
        lit_model, tests = LitMAML(Conv4((3, 84, 84), 10, width=2)), trainer(tmp_path)
        if before:
            tests.test(lit_model, datamodule=images, verbose=False)
        tests.test(lit_model, dataloaders=own, verbose=False)
        results.append(lit_model.results.mean_loss())
    assert results[0] == results[1]


def test_a_model_without_weights_to_train_is_refused(tmp_path):
    frozen = SinusoidMLP(width=4).requires_grad_(False)
    with pytest.raises(BadInput, match="SinusoidMLP has no weights to train"):
        trainer(tmp_path).fit(LitMAML(frozen), datamodule=data())


def test_a_class_is_no_model():
    with pytest.raises(BadInput, match="is no module: give an instance"):
        LitMAML(SinusoidMLP)


def test_a_trainer_of_one_device_asks_no_other_process(tmp_path, monkeypatch):
    """Each of several processes may train or test a learner of its own."""

    def refuse(*_):
        raise AssertionError("the others have nothing to say")

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        for name in ("all_gather_object", "all_reduce"):
            monkeypatch.setattr(torch.distributed, name, refuse)
        x = torch.rand(2, 4, 3, 16, 16)
        batch = EpisodeBatch(x, torch.arange(2).repeat(2, 2), x, torch.arange(2).repeat(2, 2), torch.arange(2))
        loader = DataLoader([batch], batch_size=None)
        lit_model = LitMAMLPlusPlus(Conv4((3, 16, 16), 2, width=4), inner_loop_steps=1)
        trainer(tmp_path, max_steps=1).fit(lit_model, loader)
        trainer(tmp_path).test(lit_model, loader, verbose=False)
    finally:
        torch.distributed.destroy_process_group()
    assert len(lit_model.results.index) == 2
