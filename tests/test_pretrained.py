"""Pretrained backbones beside the libraries' own, with weights files made on the spot."""

import copy
import shutil
import subprocess
import sys
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import ROOT, write_random_class_folders
from oracles import flat_gradient, meta_gradient, relative_error
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

import few_shot
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.lit_models import LitANIL, LitMAML, LitMAMLPlusPlus, LitProtoMAML, LitProtoNet
from few_shot.models import ResNetClassifier, Timm
from few_shot.models.norm import FixedNorm
from training import evaluate, run_experiment

SHAPE, STEPS, RATE = (3, 32, 32), 2, 0.01
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: timm's own test models: of plain batch norm, of batch norm with its activation, of layer norm and attention.
TINY = ["test_resnet", "test_efficientnet", "test_vit"]

pytestmark = pytest.mark.filterwarnings("ignore:The weights of .* pixels")


def with_statistics(model):
    """Running statistics away from those that a new model has."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """By name, a backbone as its library has it, in evaluation mode, and the file of its weights."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for name in ["torchvision", *TINY]:
        model = resnet18() if name == "torchvision" else timm.create_model(name, num_classes=0, **size_of(name))
        found[name] = with_statistics(model), str(folder / f"{name}.pt")
        torch.save(model.state_dict(), found[name][1])
        save_file(model.state_dict(), found[name][1].replace(".pt", ".safetensors"))
    return found


def size_of(name):
    return {"img_size": SHAPE[1:]} if name == "test_vit" else {}


def pretrained(name, file, **arguments):
    arguments = {"pretrained": True, "weights": file, "output_size": 3} | arguments
    return ResNetClassifier(SHAPE, **arguments) if name == "torchvision" else Timm(SHAPE, name=name, **arguments)


class Plain(nn.Module):
    """The library's backbone in evaluation mode, its own mean and spread, and a head."""

    def __init__(self, body, head, mean, std):
        super().__init__()
        self.body, self.head = body, head
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def forward(self, x):
        return self.head(self.body((x - self.mean) / self.std))


def plain(name, model, published):
    """The oracle, with the head of ``model``."""
    body = copy.deepcopy(published[name][0]).to(torch.get_default_dtype())
    if name == "torchvision":
        body.fc = nn.Identity()
        return Plain(body, model.resnet.fc, *IMAGENET)
    for module in body.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return Plain(body, model.head, body.pretrained_cfg["mean"], body.pretrained_cfg["std"])


def episodes():
    torch.manual_seed(1)
    x = [torch.rand(2, 3 * n, *SHAPE) for n in (1, 2)]
    y = [torch.arange(3).repeat(n).expand(2, -1) for n in (1, 2)]
    return EpisodeBatch(x[0], y[0], x[1], y[1], torch.arange(2))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", ["torchvision", *TINY])
def test_features_are_the_librarys_in_evaluation_mode_whatever_the_mode(name, suffix, published):
    model = pretrained(name, published[name][1].replace(".pt", suffix))
    oracle, x = plain(name, model, published), torch.rand(2, *SHAPE)
    lit_model = LitMAML(model)
    for mode in (True, False):
        torch.testing.assert_close(lit_model.train(mode)(x), oracle(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lit_model(x)[:1], lit_model(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first_order", [True, False], ids=["first-order", "second-order"])
@pytest.mark.parametrize("name", ["torchvision", *TINY])
def test_mamls_gradient_is_the_plain_loops(name, first_order, published, float64):
    """Vectorised over tasks; scale and shift adapt, and the statistics stay."""
    model = pretrained(name, published[name][1])
    oracle, batch = plain(name, model, published), episodes()
    lit_model = LitMAML(model, inner_lr=RATE, inner_loop_steps=STEPS, first_order=first_order)
    before = {n: b.clone() for n, b in model.named_buffers()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one task after the other would be said
        gradient = flat_gradient(lit_model.outer_scores(batch).loss.mean(), lit_model)
    expected = meta_gradient(oracle, F.cross_entropy, batch, STEPS, RATE, first_order)
    assert relative_error(gradient, expected) < 1e-9
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("cls", [LitMAML, LitANIL, LitProtoMAML, LitProtoNet])
def test_a_backbone_of_timm_is_a_model_like_the_others(cls, name, published, float64):
    lit_model, batch = cls(pretrained(name, published[name][1])), episodes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lit_model.outer_scores(batch).loss.sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in lit_model.model.parameters())
        predictions = lit_model.step_predictions(batch, [1])[0]
        # No norm looks at the batch, so query samples do not see each other anyway.
        lit_model.transductive = False
        torch.testing.assert_close(lit_model.step_predictions(batch, [1])[0], predictions, rtol=1e-9, atol=1e-10)
    adapted = lit_model.adapted_model(batch.support_x[0], batch.support_y[0], 1, 3)
    torch.testing.assert_close(adapted(batch.query_x[0]), predictions[0].detach(), rtol=1e-9, atol=1e-10)


def test_frozen_norms_are_left_to_the_outer_loop_with_the_other_norms(published):
    """And MAML++ has no steps to tell apart in them."""
    model = pretrained("test_resnet", published["test_resnet"][1])
    norms = {f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, FixedNorm) for p in ("weight", "bias")}
    assert norms
    assert norms.isdisjoint(LitMAML(model, adapt_norm=False).adapted_weights())
    assert norms <= set(LitMAML(model).adapted_weights())
    assert LitMAMLPlusPlus(model).norms == []


def test_norms_look_at_the_batch_if_they_are_not_to_be_frozen(published):
    model = LitMAML(pretrained("torchvision", published["torchvision"][1], frozen_norm=False)).eval()
    x = torch.rand(3, *SHAPE)
    assert not any(isinstance(m, FixedNorm) for m in model.modules())
    assert (model(x)[:2] - model(x[:2])).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["torchvision", "test_vit"])
def test_the_head_of_the_file_is_left_out_and_another_size_is_said(name, published, tmp_path):
    """A file with 1000 classes, of a larger image for attention, whose positions are interpolated."""
    model = resnet18() if name == "torchvision" else timm.create_model(name, num_classes=1000)
    file = tmp_path / "full.pt"
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, file)
    size = "224x224" if name == "torchvision" else "160x160"
    with pytest.warns(
        UserWarning, match=rf"are of {size} pixels, and the images have 32x32: image_size=\d+ suits them"
    ):
        ours = pretrained(name, str(file))
    assert ours(torch.rand(1, *SHAPE)).shape == (1, 3)
    loaded = ours.resnet.conv1 if name == "torchvision" else ours.body.patch_embed.proj
    theirs = model.conv1 if name == "torchvision" else model.patch_embed.proj
    assert torch.equal(loaded.weight, theirs.weight)


@pytest.mark.parametrize("name", ["torchvision", "test_resnet"])
def test_a_saved_learner_needs_the_file_no_more(name, published, tmp_path):
    file = tmp_path / "weights.pt"
    shutil.copy(published[name][1], file)
    learner = few_shot.ProtoMAML(pretrained(name, str(file)), inner_lr=RATE)
    learner.save(tmp_path / "learner.ckpt")
    file.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = few_shot.load(tmp_path / "learner.ckpt")
    x, y, new = torch.rand(6, *SHAPE), list("abcabc"), torch.rand(4, *SHAPE)
    ours, theirs = (ln.adapt(x, y, steps=2).predict_proba(new) for ln in (learner, loaded))
    assert (ours == theirs).all()


def test_a_run_from_the_command_line_and_its_evaluation(published, tmp_path):
    photos = write_random_class_folders(tmp_path / "photos", classes=3, images=4)
    file = tmp_path / "weights.pt"
    shutil.copy(published["test_efficientnet"][1], file)
    flags = ["--data_class=ImageFolders", f"--data_dir={photos}", "--image_size=32", "--model_class=Timm"]
    flags += ["--name=test_efficientnet", "--pretrained", f"--weights={file}", "--lit_model_class=LitANIL"]
    flags += ["--episode_classes=3", "--query_samples=2", "--test_query_samples=2", "--batch_size=2", "--gpus=0"]
    flags += ["--val_episodes=2", "--test_episodes=2", "--max_steps=1", f"--log_dir={tmp_path}"]
    summary = run_experiment.main(flags)
    file.unlink()
    best = next((tmp_path / "ImageFolders-LitANIL" / "version_0" / "checkpoints").glob("best-*.ckpt"))
    assert evaluate.main([f"--checkpoint={best}"]) == summary


def model_file(tmp_path, content):
    torch.save(content, tmp_path / "bad.pt")
    return str(tmp_path / "bad.pt")


@pytest.mark.parametrize("name", ["torchvision", "test_resnet"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"a": torch.ones(2)}, "holds the weights of another model than .*: it has no"),
        ([1, 2], "holds no state dict"),
        (None, "does not exist"),
    ],
    ids=["another model", "no state dict", "no file"],
)
def test_a_file_that_does_not_fit_is_named(name, content, sentence, tmp_path):
    file = str(tmp_path / "none.pt") if content is None else model_file(tmp_path, content)
    with pytest.raises(BadInput, match=f"^weights=.*{sentence}"):
        pretrained(name, file)


def test_nothing_in_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    with pytest.raises(BadInput, match=r"cannot be read as \.pt or \.safetensors \(UnpicklingError\)"):
        ResNetClassifier(SHAPE, pretrained=True, weights=model_file(tmp_path, {"a": Evil()}))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ResNetClassifier((1, 32, 32), pretrained=True), "pretrained=true needs images of 3 channels"),
        (lambda: ResNetClassifier(SHAPE, frozen_norm=True), "frozen_norm=true keeps the statistics of pretrained"),
        (lambda: Timm(SHAPE, weights="w.pt"), r"weights=w\.pt is where pretrained weights come from"),
        (lambda: Timm(SHAPE, name="resnet81"), r"name=resnet81 is no backbone of timm; did you mean .*resnet18"),
        (lambda: Timm((3,)), r"Timm takes images, not samples of \(3,\)"),
        (lambda: Timm((3, 8, 8), name="test_vit"), "name=test_vit cannot take images of"),
    ],
)
def test_what_cannot_work_is_told_in_a_sentence(make, sentence):
    with pytest.raises(BadInput, match=sentence):
        make()


def test_without_timm_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match=r"timm, which is not installed: pip install timm\."):
        Timm(SHAPE)


def test_timm_is_imported_only_when_asked_for():
    check = "import sys, few_shot; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
