"""Every algorithm as it would run on a GPU, on PyTorch's ``meta`` device, which has shapes and no numbers.

It takes the branches that a GPU takes. A tensor that is made on another device raises, and so does everything that
would make a GPU wait: ``.item()``, a copy to the host, a shape that depends on numbers.
"""

import pytest
import pytorch_lightning as pl
import torch
from helpers import write_random_class_folders
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy

import few_shot.lit_models as algorithms
from few_shot.data import MiniImagenet, Sinusoid
from few_shot.data.image_store import ImageStore
from few_shot.lit_models import base
from few_shot.models import Conv4, ResNet12, SinusoidMLP

OF_CLASSES = ["LitProtoMAML", "LitProtoNet"]


class AnyDevice(CPUAccelerator):
    def setup_device(self, device):
        """There is nothing to set up."""


class OnMeta(SingleDeviceStrategy):
    """Lightning's strategy for one device, which cannot bring the weights back from this one."""

    def __init__(self):
        super().__init__("meta", accelerator=AnyDevice())

    def teardown(self):
        """Leave everything where it is."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = write_random_class_folders(tmp_path_factory.mktemp("images"), classes=3, images=4)
    data = MiniImagenet(data_dir=str(folder), episode_classes=3, support_samples=2, query_samples=1, augment=True)
    data.test_query_samples = data.batch_size = 2
    data.setup()
    return data


@pytest.fixture
def seen(monkeypatch):
    """What the algorithm's step on the meta device comes to; what needs numbers is left out of it."""
    found = {"checks": 0, "gradients": 0}

    def check(update, tasks, losses, parameters, trainer):
        found["checks"] += 1
        found["gradients"] += sum(p.grad is not None for p in parameters)
        devices = {t.device.type for t in [tasks, losses, *(p.grad for p in parameters if p.grad is not None)]}
        assert devices == {"meta"}

    monkeypatch.setattr(base, "what_diverged", check)
    monkeypatch.setattr(ImageStore, "images_near", lambda store, device: torch.from_numpy(store.images).to(device))
    configure = base.LitMetaLearner.configure_optimizers

    def not_fused(self):
        optimizer = configure(self)
        for group in optimizer.param_groups:
            group["fused"] = False  # the kernel is there for real devices alone
        return optimizer

    monkeypatch.setattr(base.LitMetaLearner, "configure_optimizers", not_fused)
    return found


class Evaluate(pl.Callback):
    """Scores an update's tasks as a validation and a test would. Lightning's own loops need numbers of the device."""

    def on_train_batch_end(self, trainer, lit_model, outputs, batch, batch_idx):
        lit_model.eval()
        lit_model.on_test_epoch_start()
        with torch.inference_mode():
            lit_model.validation_step(batch, 0)
            lit_model.test_step(batch, 0)
        lit_model.train()
        for index, steps, loss, metric in lit_model._collector._batches:
            assert {t.device.type for t in (index, loss, metric)} == {"meta"}
            assert loss.shape == metric.shape == (len(index), len(steps))


def run(lit_model, data):
    off = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
    off["log_every_n_steps"] = 0  # what is logged has to be read
    trainer = pl.Trainer(strategy=OnMeta(), max_steps=1, limit_val_batches=0, callbacks=[Evaluate()], **off)
    trainer.fit(lit_model, datamodule=data)


MODELS = {
    "MLP": lambda: SinusoidMLP(width=4),
    "Conv4": lambda: Conv4((3, 84, 84), 3, width=4),
    "ResNet12": lambda: ResNet12((3, 84, 84), 3, width=4),
}
RUNS = [
    (name, model, fast_path)
    for name in algorithms.__all__
    for model, fast_path in (("MLP", True), ("Conv4", True), ("Conv4", False))
    if not (model == "MLP" and name in OF_CLASSES)
]
RUNS += [(name, "ResNet12", True) for name in ("LitMAML", "LitMAMLPlusPlus", "LitProtoNet")]


@pytest.mark.parametrize(("name", "model", "fast_path"), RUNS)
def test_outer_step_evaluation_and_augmentation(name, model, fast_path, images, seen):
    lit_class = getattr(algorithms, name)
    steps = {"test_inner_loop_steps": 1, "inner_loop_steps": 2} if issubclass(lit_class, algorithms.LitMAML) else {}
    steps = {name: value for name, value in steps.items() if name not in lit_class.unused}
    lit_model = lit_class(MODELS[model](), fast_path=fast_path, **steps)
    run(lit_model, Sinusoid() if model == "MLP" else images)
    trained = name != "LitRandom"
    assert seen["checks"] == (1 if trained else 0)
    assert seen["gradients"] > 0 or not trained


def test_it_would_notice_a_wait(images, seen):
    class Waits(algorithms.LitMAML):
        def outer_scores(self, batch):
            scores = super().outer_scores(batch)
            scores.loss.mean().item()
            return scores

    with pytest.raises(RuntimeError, match="meta tensors"):
        run(Waits(MODELS["MLP"]()), Sinusoid())


def test_it_would_notice_the_wrong_device(images, seen):
    class Elsewhere(algorithms.LitMAML):
        def outer_scores(self, batch):
            scores = super().outer_scores(batch)
            return scores._replace(loss=scores.loss + torch.arange(len(batch.index)))

    with pytest.raises(RuntimeError, match="device"):
        run(Elsewhere(MODELS["MLP"]()), Sinusoid())
