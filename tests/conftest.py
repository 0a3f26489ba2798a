"""Every model with a small batch of episodes that fits it, in float64."""

from unittest.mock import patch

import pytest
import torch
from torchvision.models.resnet import BasicBlock, ResNet

from few_shot.episodes import EpisodeBatch
from few_shot.models import Conv4, ResNet12, ResNetClassifier, SinusoidMLP


class NarrowResNet(ResNet):
    """ResNet-18 with a sixteenth of its channels: second-order gradients of all 11 million weights take long."""

    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.fc = torch.nn.Linear(512 // 16, 1)

    def _make_layer(self, block, planes, *rest, **options):
        return super()._make_layer(block, planes // 16, *rest, **options)


def narrow_resnet():
    with patch("few_shot.models.resnet_classifier.resnet18", NarrowResNet):
        return ResNetClassifier((3, 48, 48), 3)


MODELS = {
    "SinusoidMLP": ((1,), lambda: SinusoidMLP()),
    "Conv4": ((3, 16, 16), lambda: Conv4((3, 16, 16), 3, width=6)),
    "Conv4-stride": ((1, 28, 28), lambda: Conv4((1, 28, 28), 3, width=6, downsample="stride")),
    "Conv4-finn": (
        (1, 28, 28),
        lambda: Conv4((1, 28, 28), 3, 6, "stride", 0.0, "batch_shift", "relu", "finn2017").requires_grad_(),
    ),
    "Conv4-leaky": ((3, 16, 16), lambda: Conv4((3, 16, 16), 3, width=6, activation="leaky_relu")),
    "Conv4-group": ((3, 16, 16), lambda: Conv4((3, 16, 16), 3, width=8, norm="group")),
    "Conv4-none": ((3, 16, 16), lambda: Conv4((3, 16, 16), 3, width=6, norm="none")),
    "ResNet12": ((3, 16, 16), lambda: ResNet12((3, 16, 16), 3, width=3)),
    "ResNetClassifier": ((3, 48, 48), narrow_resnet),
}

#: Tests that share what takes half a minute to make go to one process, which makes it once: the fixtures of these
#: files, and what the compiler finds out about the machine in every process.
TOGETHER = ("test_web.py", "test_world.py")
COMPILED = "compile"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests one by one, but for some. (xdist's own marks for that have no effect with pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            return file if file.endswith(TOGETHER) else COMPILED if COMPILED in test else nodeid

    return Together(config, log)


@pytest.fixture
def no_pictures(monkeypatch):
    """A run that the test makes draws none: they take more than half of the time of a run this short."""
    from training import run_experiment

    monkeypatch.setattr(run_experiment, "show_run", lambda *_: None)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=MODELS)
def model_and_batch(request, float64):
    """A model, its loss by name, and a batch of 2 tasks of 2 shots and 3 queries, 3 ways."""
    torch.manual_seed(0)
    shape, make = MODELS[request.param]
    model = torch.func.replace_all_batch_norm_modules_(make())
    tasks, shots, queries, ways = 2, 2, 3, 3
    if shape == (1,):
        x = [4 * torch.rand(tasks, n, 1) - 2 for n in (shots * ways, queries * ways)]
        return model, "mse_loss", EpisodeBatch(x[0], x[0].sin(), x[1], x[1].sin(), torch.arange(tasks))
    x = [torch.rand(tasks, n * ways, *shape) for n in (shots, queries)]
    y = [torch.arange(ways).repeat_interleave(n).expand(tasks, -1).contiguous() for n in (shots, queries)]
    return model, "cross_entropy", EpisodeBatch(x[0], y[0], x[1], y[1], torch.arange(tasks))
