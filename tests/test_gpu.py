"""A GPU computes what the CPU does."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import write_random_class_folders
from oracles import flat_gradient, meta_gradient, relative_error

from few_shot.data import MiniImagenet
from few_shot.episodes import EpisodeBatch
from few_shot.lit_models import LitMAML
from training import run_experiment

DEVICE = "cuda"
RATE, STEPS = 0.1, 2
SOME = ["SinusoidMLP", "Conv4", "Conv4-stride", "Conv4-group", "ResNet12"]  # ResNet-18's plain loop takes minutes

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)


def moved(batch, dtype):
    return EpisodeBatch(*(x.to(DEVICE, dtype if x.is_floating_point() else x.dtype) for x in batch))


def maml(model, loss, **arguments):
    metric = "mse" if loss == "mse_loss" else "accuracy"
    return LitMAML(model, inner_lr=RATE, inner_loop_steps=STEPS, loss=loss, metric=metric, **arguments).to(DEVICE)


def outer_gradient_error(lit_model, loss, batch):
    """Relative, against the plain loop on the CPU."""
    gradient = flat_gradient(lit_model.training_scores(moved(batch, torch.float64)).loss.mean(), lit_model.model)
    oracle = meta_gradient(lit_model.model.cpu(), getattr(F, loss), batch, STEPS, RATE)
    return relative_error(gradient.cpu(), oracle)


@pytest.mark.parametrize("model_and_batch", SOME, indirect=True)
@pytest.mark.parametrize("fast_path", [True, False], ids=["folded", "vmap"])
def test_outer_gradient(fast_path, model_and_batch):
    model, loss, batch = model_and_batch
    assert outer_gradient_error(maml(model, loss, fast_path=fast_path), loss, batch) < 1e-9


@pytest.mark.parametrize("model_and_batch", ["SinusoidMLP", "Conv4"], indirect=True)
@pytest.mark.parametrize("fast_path", [True, False], ids=["folded", "vmap"])
def test_compiled_outer_gradient(fast_path, model_and_batch):
    model, loss, batch = model_and_batch
    lit_model = maml(model, loss, fast_path=fast_path)
    lit_model.compile_outer_step()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="--compile")  # what it says when it falls back
        assert outer_gradient_error(lit_model, loss, batch) < 1e-9


@pytest.mark.parametrize("model_and_batch", SOME, indirect=True)
@pytest.mark.parametrize("fast_path", [True, False], ids=["folded", "vmap"])
def test_autocast_gradient_points_the_same_way(fast_path, model_and_batch):
    model, loss, batch = model_and_batch
    oracle = meta_gradient(model, getattr(F, loss), batch, STEPS, RATE)
    lit_model = maml(model.float(), loss, fast_path=fast_path)
    with torch.autocast(DEVICE, torch.bfloat16):
        scores = lit_model.outer_scores(moved(batch, torch.float32))
    gradient = flat_gradient(scores.loss.mean(), model)
    assert scores.loss.dtype == gradient.dtype == torch.float32
    assert torch.cosine_similarity(gradient.cpu().double(), oracle, dim=0) > 0.7


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_random_class_folders(tmp_path_factory.mktemp("images"), classes=6, images=8)


@pytest.mark.parametrize(("free", "place"), [(10**12, DEVICE), (0, "cpu")], ids=["room", "no room"])
def test_images_are_gathered_on_the_gpu_where_they_fit(free, place, images, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    data = MiniImagenet(data_dir=str(images), episode_classes=3, query_samples=2, test_query_samples=2)
    data.setup()
    episodes = data.draw("train", 0, np.arange(3))
    here = data.prepare(episodes, "train", torch.float32)
    there = data.prepare(moved(episodes, torch.float32), "train", torch.float32)
    assert all(x.device.type == DEVICE for x in there)
    # A GPU multiplies by the inverse of 255, which is the last bit off.
    torch.testing.assert_close([x.cpu() for x in there], list(here), rtol=1e-7, atol=0)
    assert data.stores["train"].images_near(torch.device(DEVICE, 0)).device.type == place


@pytest.fixture(params=["Sinusoid", "MiniImagenet"])
def experiment(request, images):
    """A short experiment's flags."""
    flags = ["--max_steps=3", "--batch_size=2", "--val_episodes=3", "--test_episodes=4", "--width=8"]
    if request.param == "Sinusoid":
        return [*flags, "--data_class=Sinusoid"]
    sizes = ["--episode_classes=3", "--query_samples=2", "--test_query_samples=2"]
    return [*flags, *sizes, "--data_class=MiniImagenet", f"--data_dir={images}", "--augment"]


@pytest.mark.parametrize("flags", [[], ["--compile"], ["--strategy=ddp"]], ids=" ".join)
def test_run(flags, experiment, tmp_path):
    def mean(*more):
        return run_experiment.main([*experiment, "--precision=64", f"--log_dir={tmp_path}", *more])["mean"]

    assert mean("--gpus=1", *flags) == pytest.approx(mean("--gpus=0"), rel=1e-6)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_run_in_low_precision(precision, experiment, tmp_path):
    flags = [f"--precision={precision}", "--gradient_clip_val=10", f"--log_dir={tmp_path}"]
    assert run_experiment.main([*experiment, *flags, "--gpus=1"])["diverged"] == 0
