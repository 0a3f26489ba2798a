"""Fewer classes than a head has outputs for, and more."""

import copy

import pytest
import torch
from torch import nn

from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.lit_models import LitANIL, LitBOIL, LitIMAML, LitMAML, LitMAMLPlusPlus, LitMetaSGD, LitReptile
from few_shot.models import Conv4, ResNet12

SHAPE, OUTPUTS, CLASSES = (3, 16, 16), 5, 3
MEMBERS = [LitMAML, LitANIL, LitBOIL, LitMetaSGD, LitReptile, LitIMAML, LitMAMLPlusPlus]
BACKBONES = {"chain": lambda n: Conv4(SHAPE, n, width=6), "no chain": lambda n: ResNet12(SHAPE, n, width=3)}


def first_rows(state, like):
    """The weights with as many outputs as ``like`` has: those of the first."""
    return {name: value[: len(like[name])] if value.dim() else value for name, value in state.items()}


@pytest.mark.parametrize("inner_optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("cls", MEMBERS)
def test_fewer_classes_are_as_with_that_many_outputs(cls, backbone, inner_optimizer, float64):
    torch.manual_seed(0)
    wide, exact = (cls(BACKBONES[backbone](n), inner_optimizer=inner_optimizer).eval() for n in (OUTPUTS, CLASSES))
    exact.load_state_dict(first_rows(wide.state_dict(), exact.state_dict()))
    before = copy.deepcopy(wide.state_dict())
    x, y, new = torch.rand(6, *SHAPE), torch.tensor([2, 0, 1, 1, 2, 0]), torch.rand(4, *SHAPE)
    ours, oracle = (lit_model.adapted_model(x, y, 3, CLASSES) for lit_model in (wide, exact))
    unadapted = exact.adapted_model(x, y, 0, CLASSES)
    assert (unadapted(new) - oracle(new)).abs().max() > 1e-3
    torch.testing.assert_close(ours(new), oracle(new), rtol=1e-9, atol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())


def smoothed(predictions, targets):
    return nn.functional.cross_entropy(predictions, targets, label_smoothing=0.2)


@pytest.mark.parametrize("loss", [f"{__name__}.smoothed", "multi_margin_loss"])
def test_fewer_classes_by_any_loss(loss, float64):
    """The outputs that take no part have no loss either."""
    torch.manual_seed(0)
    wide, exact = (LitMAML(Conv4(SHAPE, n, width=6), loss=loss, inner_lr=0.5).eval() for n in (OUTPUTS, CLASSES))
    exact.load_state_dict(first_rows(wide.state_dict(), exact.state_dict()))
    x, y, new = torch.rand(6, *SHAPE), torch.tensor([2, 0, 1, 1, 2, 0]), torch.rand(4, *SHAPE)
    ours, oracle = (lit_model.adapted_model(x, y, 3, CLASSES)(new) for lit_model in (wide, exact))
    torch.testing.assert_close(ours, oracle, rtol=1e-9, atol=1e-10)
    assert (oracle - exact.adapted_model(x, y, 0, CLASSES)(new)).abs().max() > 1e-3


@pytest.mark.parametrize("cls", MEMBERS)
def test_more_classes_are_refused_with_what_takes_them(cls):
    lit_model, x, y = cls(Conv4(SHAPE, 2, width=4)), torch.rand(3, *SHAPE), torch.arange(3)
    with pytest.raises(BadInput, match="the model has 2 outputs: ProtoNet and ProtoMAML take any"):
        lit_model.adapted_model(x, y, 1, 3)


def test_a_head_without_a_bias_takes_fewer_classes():
    lit_model = LitMAML(nn.Sequential(nn.Flatten(), nn.Linear(768, 6), nn.ReLU(), nn.Linear(6, 5, bias=False)))
    assert lit_model.adapted_model(torch.rand(3, *SHAPE), torch.arange(3), 1, 3)(torch.rand(2, *SHAPE)).shape == (2, 3)


def test_a_model_that_is_all_head_takes_fewer_classes():
    lit_model = LitMAML(nn.Linear(4, 5))
    assert lit_model.adapted_model(torch.rand(3, 4), torch.arange(3), 1, 3)(torch.rand(2, 4)).shape == (2, 3)


class LastIsNoHead(nn.Module):
    """Its last layer with weights is not what it puts out: an auxiliary one, or the body."""

    def __init__(self, last):
        super().__init__()
        self.head, self.body = nn.Linear(16, OUTPUTS), nn.Sequential(nn.Flatten(), nn.Linear(768, 16))
        self.last = last

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, OUTPUTS, 16), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(768, OUTPUTS), nn.LogSoftmax(-1)),
        LastIsNoHead(nn.Linear(16, 7)),
        LastIsNoHead(nn.Identity()),
    ],
    ids=["no linear head", "something after the head", "an auxiliary head", "the head first"],
)
def test_a_model_of_any_form_takes_fewer_classes(model, float64):
    """It predicts what the scores of an episode of so many classes are of."""
    lit_model = LitMAML(model.double(), inner_lr=0.1, inner_loop_steps=2, metric="accuracy", transductive=False).eval()
    x, y, new = torch.rand(1, 6, *SHAPE), torch.tensor([[2, 0, 1, 1, 2, 0]]), torch.rand(1, 4, *SHAPE)
    (oracle,) = lit_model.test_predictions(EpisodeBatch(x, y, new, y[:, :4], torch.tensor([0])), [2])
    ours = lit_model.adapted_model(x[0], y[0], 2, CLASSES)(new[0])
    assert ours.shape == (4, CLASSES)
    torch.testing.assert_close(ours, oracle[0])
