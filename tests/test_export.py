"""The exported graphs, run in onnxruntime, against the learner itself in PyTorch."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import python_blocks
from safetensors.numpy import load_file
from torch import nn

import few_shot
from few_shot import MAML, ProtoNet, export
from few_shot.errors import BadInput
from few_shot.models import Conv4, SinusoidMLP
from few_shot.onnx import check

SHAPE = (1, 16, 16)


class Small(nn.Module):
    """Whatever has a derivative of its own, once: a convolution with stride, batch norm, max-pooling, a head."""

    def __init__(self):
        super().__init__()
        self.constructor_arguments = {"input_shape": SHAPE}
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.LeakyReLU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.body(x))


def run(folder, file="adapt.onnx", **inputs):
    session = onnxruntime.InferenceSession(folder / file)
    return session.run(None, {name: np.asarray(value) for name, value in inputs.items()})[0]


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    """A learner of curves, and its export with two inner steps."""
    torch.manual_seed(0)
    learner = MAML(SinusoidMLP(width=8), metric="mse", inner_lr=0.05)
    folder = tmp_path_factory.mktemp("sine") / "export"
    return learner, learner.export(folder, steps=2)


@pytest.mark.parametrize(("support", "query", "inner_lr"), [(1, 7, 0.05), (6, 1, 0.05), (5, 3, 0.2)])
def test_any_number_of_points_and_any_rate(sine, support, query, inner_lr):
    learner, exported = sine
    x, q = (torch.linspace(-4, 4, n)[:, None] for n in (support, query))
    found = run(exported.folder, support_x=x, support_y=x.sin(), query_x=q, inner_lr=np.float32(inner_lr))
    assert found.shape == (3, query, 1)
    by_this_rate = MAML(learner.model, metric="mse", inner_lr=inner_lr)
    for step, predictions in enumerate(found):
        wanted = by_this_rate.adapt(x, x.sin(), steps=step).predict(q)
        np.testing.assert_allclose(predictions, wanted, atol=1e-5)
    assert np.abs(found[2] - found[0]).max() > 1e-2


def test_the_pages_example_computes_what_the_learner_does(sine, tmp_path, monkeypatch, capsys):
    learner, exported = sine
    (tmp_path / "exported").symlink_to(exported.folder)
    monkeypatch.chdir(tmp_path)
    (example,) = python_blocks("web/README.md")
    shown: dict = {}
    exec(example, shown)
    assert capsys.readouterr().out == f"{shown['session'].run(None, shown['task'])[0]}\n"
    x, q = shown["task"]["support_x"], shown["task"]["query_x"]
    wanted = MAML(learner.model, metric="mse", inner_lr=0.01).adapt(x, np.sin(x), steps=2).predict(q)
    np.testing.assert_allclose(shown["session"].run(None, shown["task"])[0][-1], wanted, atol=1e-5)


def test_another_runtime_can_put_adapted_weights_into_the_network(sine):
    learner, exported = sine
    x = torch.linspace(-4, 4, 6)[:, None]
    adapted = learner.adapt(x, x.sin(), steps=3)
    weights = {f"model.{name}": w.numpy() for name, w in adapted.model.state_dict().items()}
    assert weights.keys() == load_file(exported.folder / "weights.safetensors").keys()
    np.testing.assert_allclose(run(exported.folder, "model.onnx", **weights, x=x), adapted.predict(x), atol=1e-6)


def test_the_folder_says_what_it_is(sine):
    learner, exported = sine
    facts = json.loads((exported.folder / "export.json").read_text())
    assert (facts["task"], facts["steps"], facts["outputs"], facts["input_shape"]) == ("regression", 2, 1, [1])
    assert facts["inner_lr"] == {"default": 0.05, "meaning": "rate"} and facts["lit_model_class"] == "LitMAML"
    assert set(exported.sizes) == {file.name for file in exported.folder.iterdir()} and exported.difference < 1e-5
    example = load_file(exported.folder / facts["example"]["file"])
    wanted = example.pop("predictions")
    assert example.keys() == set(facts["inputs"])
    np.testing.assert_allclose(run(exported.folder, **example), wanted, atol=1e-5)
    x = torch.linspace(-4, 4, 6)[:, None]
    by = few_shot.load(exported.folder).adapt(x, x.sin(), steps=1)
    np.testing.assert_array_equal(by.predict(x), learner.adapt(x, x.sin(), steps=1).predict(x))


def layers():
    """A small network with batch norm."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU(), nn.Linear(4, 5)
    )
    model.constructor_arguments = {"input_shape": SHAPE}
    return model


def conv4(**arguments):
    return Conv4(SHAPE, 5, 4, **arguments)


CLASSES = {"metric": "accuracy", "inner_lr": 0.5}
#: Learners with the inner steps to export and what inner_lr is to them.
LEARNERS = {
    "MAML": (lambda: MAML(Small(), **CLASSES), 1, "rate"),
    "MetaSGD": (lambda: few_shot.MetaSGD(layers(), metric="accuracy", adapt_norm=False), 1, "factor"),
    "MAML++": (lambda: few_shot.MAMLPlusPlus(layers(), inner_loop_steps=2, **CLASSES), 2, "factor"),
    "ProtoNet": (lambda: ProtoNet(Small()), 0, None),
    "ANIL-stride": (lambda: few_shot.ANIL(conv4(downsample="stride", norm="batch_shift"), **CLASSES), 1, "rate"),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_probabilities_of_classes_are_the_learners(name, tmp_path):
    """With as many classes as outputs, and with fewer, of which there are not as many samples each."""
    torch.manual_seed(0)
    make, steps, meaning = LEARNERS[name]
    learner = make()
    for parameter in learner.lit_model.parameters():  # rates and norms are no longer all alike
        parameter.data += 0.1 * torch.rand_like(parameter)
    folder = learner.export(tmp_path / "export", steps=steps).folder
    facts = json.loads((folder / "export.json").read_text())
    rate = facts["inner_lr"]
    assert (rate and rate["meaning"]) == meaning
    for labels in ([0, 1, 2, 3, 4], [2, 0, 0, 1]):
        y = np.array(labels)
        episode = check.draw(3, SHAPE, list(np.bincount(y)), 5, 6)
        x = episode.support_x[np.argsort(np.argsort(y, kind="stable"), kind="stable")]
        given = {"support_x": x, "support_y": y, "query_x": episode.query_x}
        found = run(folder, **given, **({"inner_lr": np.float32(rate["default"])} if rate else {}))
        assert found.shape == (steps + 1, 6, facts["outputs"])
        for step, probabilities in enumerate(found):
            wanted = learner.adapt(x, y, steps=step).predict_proba(episode.query_x)
            np.testing.assert_allclose(probabilities[:, : wanted.shape[1]], wanted, atol=1e-4)
            assert not probabilities[:, wanted.shape[1] :].any()


def test_more_classes_than_the_graph_of_protonet_knows_have_no_probabilities(tmp_path):
    folder = ProtoNet(Small()).export(tmp_path / "export", steps=0).folder
    most = json.loads((folder / "export.json").read_text())["outputs"]
    x = np.random.default_rng(0).random((most + 1, *SHAPE), dtype=np.float32)
    for classes in (most, most + 1):
        found = run(folder, support_x=x[:classes], support_y=np.arange(classes), query_x=x)
        assert (np.isfinite(found) if classes == most else np.isnan(found)).all()


def grouped():
    model = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(2 * 36, 3))
    model.constructor_arguments = {"input_shape": (2, 8, 8)}
    return model


@pytest.mark.parametrize(
    ("learner", "steps", "sentence"),
    [
        (lambda: few_shot.ProtoMAML(Small()), 1, "LitProtoMAML cannot be exported: .* ProtoNet can"),
        (lambda: ProtoNet(Small()), 2, "steps=2 is of no use: LitProtoNet has no inner steps"),
        (lambda: MAML(Small()), 1, "fit the learner first, or give it a metric"),
        (lambda: MAML(nn.Linear(1, 1), metric="mse"), 1, "what shape the model's inputs have"),
        (lambda: MAML(grouped(), metric="accuracy"), 1, "Sequential cannot be exported: a convolution .* in groups"),
        (lambda: MAML(SinusoidMLP(), metric="mse"), -1, "steps=-1 is too small"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_sentence(learner, steps, sentence, tmp_path):
    with pytest.raises(BadInput, match=sentence):
        learner().export(tmp_path / "export", steps=steps)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_computes_something_else_is_not_written(sine, tmp_path, monkeypatch):
    of_pytorch = check.Judge.of_pytorch
    monkeypatch.setattr(check.Judge, "of_pytorch", lambda *given: of_pytorch(*given) + 2e-4)
    with pytest.raises(BadInput, match=r"differ from PyTorch's by 2.0e-04 at least, and 1e-04 is allowed"):
        sine[0].export(tmp_path / "export", steps=0)
    assert not list(tmp_path.iterdir())


def test_a_network_that_computes_something_else_is_not_written(tmp_path):
    learner = MAML(conv4(), **CLASSES)
    folder = learner.export(tmp_path / "export", steps=0).folder
    x = torch.rand(3, *SHAPE)
    check.check_network(learner.lit_model.eval(), folder / "model.onnx", x)
    with pytest.raises(BadInput, match=r"Conv4 is not exported: .* differ from PyTorch's by"):
        check.check_network(MAML(conv4(activation="leaky_relu"), **CLASSES).lit_model, folder / "model.onnx", x)


def test_a_folder_of_something_else_is_left_alone(sine, tmp_path):
    (tmp_path / "thesis.tex").write_text("two years of work")
    for others in ("[1]", '{"tool": "somebody else\'s"}', "no JSON"):
        with pytest.raises(BadInput, match="is no export that could be replaced"):
            sine[0].export(tmp_path)
        assert {file.name for file in tmp_path.iterdir()} <= {"thesis.tex", "export.json"}
        (tmp_path / "export.json").write_text(others)
    with pytest.raises(BadInput, match="is no export that could be replaced"):
        sine[0].export(tmp_path)


def test_an_export_is_replaced_and_what_lies_beside_it_stays(sine, tmp_path, monkeypatch):
    page, link = tmp_path / "site" / "index.html", tmp_path / "link"
    sine[0].export(page.parent, steps=1)
    page.write_text("my page")
    link.symlink_to(page.parent)
    monkeypatch.chdir(page.parent)
    for folder, steps in ((".", 2), (link, 3)):
        exported = sine[0].export(folder, steps=steps)
        assert json.loads((page.parent / "export.json").read_text())["steps"] == steps
        assert {file.name for file in page.parent.iterdir()} == {*exported.sizes, "index.html"}
    assert page.read_text() == "my page" and link.is_symlink()


def test_without_the_extra_it_is_said_what_to_install(sine, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"onnxruntime, not installed: pip install onnx onnxscript onnxruntime\."):
        sine[0].export(tmp_path / "export")
