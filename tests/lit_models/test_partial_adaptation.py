"""ANIL, BOIL and Meta-SGD against the plain loop and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from oracles import adapt_one_task, flat_gradient, meta_loss, relative_error, slope
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from few_shot.adaptation import head_name
from few_shot.errors import BadInput
from few_shot.lit_models import LitANIL, LitBOIL, LitMAML, LitMetaSGD, LitProtoNet
from few_shot.models import Conv4, ResNet12, ResNetClassifier, SinusoidMLP

STEPS, RATE = 2, 0.05
some_models = pytest.mark.parametrize("model_and_batch", ["SinusoidMLP", "Conv4"], indirect=True)


def algorithm(cls, model, loss, **arguments):
    metric = "mse" if loss == "mse_loss" else "accuracy"
    return cls(model, loss=loss, metric=metric, inner_loop_steps=STEPS, **arguments)


def outer_loss(lit_model, batch):
    return lit_model.outer_scores(batch).loss.mean()


def test_the_head_is_the_last_module_with_parameters():
    heads = {
        "5": SinusoidMLP(),
        "head": Conv4((3, 16, 16), 5, width=4),
        "head ": ResNet12((3, 16, 16), 5, width=2),
        "resnet.fc": ResNetClassifier((3, 32, 32), 5),
        "1.0": nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 2), nn.ReLU()), nn.Flatten()),
        "": nn.Linear(2, 2),
    }
    assert [head_name(model) for model in heads.values()] == [name.strip() for name in heads]


@pytest.mark.parametrize("model_and_batch", ["SinusoidMLP", "Conv4", "ResNetClassifier"], indirect=True)
@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
@pytest.mark.parametrize("cls", [LitANIL, LitBOIL])
def test_outer_gradient_is_that_of_the_plain_loop(cls, first_order, model_and_batch):
    model, loss, batch = model_and_batch
    lit_model = algorithm(cls, model, loss, inner_lr=RATE, first_order=first_order)
    head = [name for name, _ in model.named_parameters()][-2:]  # a linear layer's weight and bias, in every model
    body = [name for name, _ in model.named_parameters() if name not in head]
    adapted = head if cls is LitANIL else body
    assert list(lit_model.adapted_weights()) == adapted
    gradient = flat_gradient(outer_loss(lit_model, batch), lit_model)
    oracle = flat_gradient(meta_loss(model, getattr(F, loss), batch, STEPS, RATE, first_order, adapted), model)
    assert relative_error(gradient, oracle) < 1e-10
    maml = algorithm(LitMAML, model, loss, inner_lr=RATE, first_order=first_order)
    assert relative_error(flat_gradient(outer_loss(maml, batch), maml), oracle) > 1e-3


@pytest.mark.parametrize("model_and_batch", ["Conv4", "Conv4-finn", "Conv4-group", "ResNet12"], indirect=True)
def test_normalisation_is_left_to_the_outer_loop_on_demand(model_and_batch):
    """As in MAML's code: the inner loop leaves scale and shift alone, and the outer loop trains them."""
    model, loss, batch = model_and_batch
    lit_model = algorithm(LitMAML, model, loss, inner_lr=RATE, adapt_norm=False)
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    fixed = [f"{name}.{p}" for name, m in model.named_modules() if isinstance(m, norms) for p in ("weight", "bias")]
    adapted = [name for name, _ in model.named_parameters() if name not in fixed]
    assert fixed and list(lit_model.adapted_weights()) == adapted
    gradient = flat_gradient(outer_loss(lit_model, batch), lit_model)
    oracle = flat_gradient(meta_loss(model, getattr(F, loss), batch, STEPS, RATE, adapted=adapted), model)
    assert relative_error(gradient, oracle) < 1e-10
    maml = algorithm(LitMAML, model, loss, inner_lr=RATE)
    assert relative_error(flat_gradient(outer_loss(maml, batch), maml), oracle) > 1e-5


@some_models
@pytest.mark.parametrize("cls", [LitANIL, LitBOIL])
def test_the_rest_does_not_move_in_evaluation(cls, model_and_batch):
    model, loss, batch = model_and_batch
    lit_model = algorithm(cls, model, loss, inner_lr=RATE)
    scores = lit_model.step_scores(batch, [0, 3])
    for task, (x, y, query_x, query_y, _) in enumerate(zip(*batch, strict=True)):
        adapted = list(lit_model.adapted_weights())
        weights = adapt_one_task(model, getattr(F, loss), x, y, 3, RATE, False, adapted)
        query_loss = getattr(F, loss)(torch.func.functional_call(model, weights, (query_x,)), query_y)
        assert scores[1].loss[task].item() == pytest.approx(query_loss.item(), rel=1e-9)


@pytest.mark.parametrize("cls", [LitANIL, LitBOIL])
def test_a_head_whose_weight_is_computed_from_others_is_one_with_them(cls):
    """Its bias adapts with it, or stays with it."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), weight_norm(nn.Linear(6, 3)))
    assert head_name(model) == "2"
    head = {f"2.{name}" for name in ("bias", "parametrizations.weight.original0", "parametrizations.weight.original1")}
    assert set(cls(model).adapted_weights()) == (head if cls is LitANIL else {"0.weight", "0.bias"})
    x, y = torch.rand(6, 4), torch.arange(3).repeat(2)
    assert LitProtoNet(model).adapted_model(x, y, 0)(x).shape == (6, 3)


@pytest.mark.parametrize("cls", [LitANIL, LitBOIL])
def test_a_head_that_shares_a_weight_with_the_body_is_refused(cls):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    with pytest.raises(BadInput, match=r"The head of Sequential, 2, shares a weight with its body, 0\.weight"):
        cls(model)


def test_a_frozen_head_cannot_adapt():
    with pytest.raises(BadInput, match="LitANIL adapts a model's head, and that of Sequential is frozen"):
        LitANIL(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)))


def test_a_model_that_is_all_head_has_no_body_to_adapt():
    with pytest.raises(BadInput, match="LitBOIL adapts a model's body, and Linear has only a head"):
        LitBOIL(nn.Linear(2, 2))
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    with pytest.raises(BadInput, match="LitBOIL adapts a model's body, and Sequential has its body frozen"):
        LitBOIL(model)


@pytest.fixture
def meta_sgd(model_and_batch):
    model, loss, batch = model_and_batch
    torch.manual_seed(1)
    return algorithm(LitMetaSGD, model, loss), batch


@some_models
def test_meta_sgds_rates_start_in_the_papers_range(meta_sgd):
    lit_model, _ = meta_sgd
    rates = torch.cat([r.flatten() for r in lit_model.rates])
    assert 0.005 <= rates.min() < 0.01 and 0.095 < rates.max() <= 0.1
    assert len(rates) == sum(p.numel() for p in lit_model.model.parameters())


@some_models
def test_meta_sgd_is_the_plain_loop_with_a_rate_per_element(meta_sgd):
    lit_model, batch = meta_sgd
    names = [name for name, _ in lit_model.model.named_parameters()]
    rates = dict(zip(names, lit_model.rates, strict=True))
    loss = F.mse_loss if lit_model.metric == "mse" else F.cross_entropy
    oracle = flat_gradient(meta_loss(lit_model.model, loss, batch, STEPS, rates), lit_model)
    assert relative_error(flat_gradient(outer_loss(lit_model, batch), lit_model), oracle) < 1e-10


@some_models
@pytest.mark.parametrize("learned", ["model", "rates"])
def test_meta_sgds_gradients_are_finite_differences(meta_sgd, learned):
    lit_model, batch = meta_sgd
    module = getattr(lit_model, learned)
    gradient = flat_gradient(outer_loss(lit_model, batch), module)
    assert gradient.norm() > 1e-4
    direction = gradient / gradient.norm()
    found = slope(lambda: outer_loss(lit_model, batch), module, direction, h=1e-8)
    assert found == pytest.approx(gradient.norm().item(), rel=1e-5)


@pytest.mark.parametrize("bounds", [(0.0, 0.1), (-0.1, 0.1), (0.2, 0.1)])
def test_impossible_rates_are_named(bounds):
    with pytest.raises(BadInput, match=r"^inner_lr_min="):
        LitMetaSGD(SinusoidMLP(), inner_lr_min=bounds[0], inner_lr_max=bounds[1])
