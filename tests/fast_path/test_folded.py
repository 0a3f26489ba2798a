"""The fast path against the plain loop and against vmap, its derivatives, and when it is taken."""

import copy
import functools
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import flat_gradient, meta_gradient, meta_loss, relative_error
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from few_shot.adaptation import predictor, stack
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.fast_path.folded import assemble, folded_predictor
from few_shot.lit_models import LitANIL, LitBOIL, LitMAML, LitProtoNet
from few_shot.models import Conv4, ResNet12, SinusoidMLP

STEPS, RATE = 2, 0.1
IMAGE = (3, 18, 21)  # neither size is a multiple of 16, so that pooling leaves rows and columns over


class Small(nn.Module):
    """A chain that Conv4 is not: pooling without norm, no biases, batch norm without pooling, two linear layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1, dilation=1, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, (3, 1), stride=(2, 1)), nn.BatchNorm2d(6, track_running_stats=False)),
            *(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5, bias=False), nn.ReLU()),
        )
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.layers(x))


CHAINS = {
    "max-pool": lambda: Conv4(IMAGE, 3, width=5),
    "stride": lambda: Conv4(IMAGE, 3, width=5, downsample="stride"),
    "no norm": lambda: Conv4(IMAGE, 3, width=5, norm="none"),
    "small": Small,
    "MLP": lambda: SinusoidMLP(IMAGE, 3, width=7),
}


@pytest.fixture(autouse=True)
def _float64(float64):
    torch.manual_seed(0)


@pytest.fixture
def batch():
    x = [torch.rand(2, n, *IMAGE) for n in (6, 9)]
    x[0][0, 0] = 0  # an image without any feature: every window a tie
    y = [torch.arange(3).repeat(2, n) for n in (2, 3)]
    return EpisodeBatch(x[0], y[0], x[1], y[1], torch.arange(2))


def chain(kind):
    """A model whose parameters are all away from zero, among them norm scales of either sign."""
    model = CHAINS[kind]()
    for p in model.parameters():
        if p.dim() == 1:
            nn.init.normal_(p)
    return model


@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
@pytest.mark.parametrize("kind", CHAINS)
def test_equals_the_plain_loop(kind, first_order, batch):
    model = chain(kind)
    assert assemble(model) is not None
    lit_model = LitMAML(model, inner_lr=RATE, inner_loop_steps=STEPS, first_order=first_order)
    gradient = flat_gradient(lit_model.outer_scores(batch).loss.mean(), model)
    oracle = meta_gradient(model, F.cross_entropy, batch, STEPS, RATE, first_order)
    assert relative_error(gradient, oracle) < 1e-10


def with_a_frozen_layer(model):
    model.body[0].requires_grad_(False)
    return model


def with_a_layer_after_the_head(model):
    return nn.Sequential(model, nn.ReLU())


@pytest.mark.parametrize(
    ("algorithm", "change"),
    [
        (LitANIL, lambda model: model),
        (LitANIL, with_a_layer_after_the_head),
        (LitBOIL, lambda model: model),
        (LitMAML, with_a_frozen_layer),
    ],
)
def test_parameters_that_do_not_adapt(algorithm, change, batch):
    """They are shared by all tasks, and get their gradient through all of them."""
    model = change(chain("max-pool"))
    lit_model = algorithm(model, inner_lr=RATE, inner_loop_steps=STEPS)
    assert lit_model.folded_layers is not None
    trained = [p for p in model.parameters() if p.requires_grad]
    adapted = list(lit_model.adapted_weights())
    gradient, oracle = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained, materialize_grads=True)])
        for loss in (
            lit_model.outer_scores(batch).loss.mean(),
            meta_loss(model, F.cross_entropy, batch, STEPS, RATE, adapted=adapted),
        )
    )
    assert relative_error(gradient, oracle) < 1e-10


class Convolutions(TorchDispatchMode):
    """Counts them, and not their derivatives."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def test_what_no_step_adapts_is_computed_once(batch):
    lit_model = LitANIL(chain("max-pool"))
    with Convolutions() as convolutions:
        lit_model.step_scores(batch, [0, 1, 2, 3])
    assert convolutions.count == 2 * 4  # support and query, four blocks


@pytest.mark.parametrize("kind", CHAINS)
def test_predicts_as_vmap_does(kind, batch):
    model = chain(kind)
    weights = {name: w + 0.1 * torch.randn_like(w) for name, w in stack(dict(model.named_parameters()), 2).items()}
    folded = folded_predictor(model, assemble(model))(weights, batch.query_x)
    torch.testing.assert_close(folded, predictor(model)(weights, batch.query_x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tasks", [1, 2])
def test_images_are_folded_channels_last(tasks, batch):
    """Of one task too, whose channels need not be moved together: all later layers take over how it lies in memory."""
    fold, *_ = assemble(chain("max-pool"))
    assert fold.compute({}, batch.support_x[:tasks]).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("of", ["lit_maml", "without_head"])
def test_fast_path_off_takes_vmap(of, batch, monkeypatch):
    lit_class = {"lit_maml": LitMAML, "without_head": LitProtoNet}[of]
    monkeypatch.setattr(f"few_shot.lit_models.{of}.folded_predictor", lambda *_: pytest.fail("folded"))
    lit_class(chain("stride"), fast_path=False).outer_scores(batch)
    with pytest.raises(pytest.fail.Exception):
        lit_class(chain("stride")).outer_scores(batch)


def test_memory_that_runs_out_is_no_layer_that_does_not_fit(batch, monkeypatch):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("few_shot.fast_path.folded.convolution", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        LitMAML(chain("stride")).outer_scores(batch)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 18 * 21, 3))

    def forward(self, x):
        return self.head(self.conv(x) + x)


class Undecided(nn.Module):
    """Its forward pass cannot be known without the data."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(x) if x.sum() > 0 else self.head(-x)


class Tied(nn.Sequential):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4))
        self[2].weight = self[1].weight


def watched():
    model = SinusoidMLP()
    model[1].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "model",
    [
        Residual(),
        Tied(),
        watched(),
        Undecided(),
        ResNet12(IMAGE, 3, width=3),
        Conv4(IMAGE, 3, width=8, norm="group"),
        Conv4(IMAGE, 3, width=5, dropout=0.1),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.Flatten(), nn.Linear(4 * 18 * 21, 3)),
        nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(6 * 16 * 19, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(4 * 5 * 6, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16 * 19, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
    ],
    ids=lambda model: type(model).__name__,
)
def test_other_models_have_no_fast_path(model):
    assert assemble(model) is None


class Switched(nn.Module):
    """A chain whose forward pass depends on something else than the data."""

    def __init__(self, skips):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.skip, self.skips = False, skips

    def forward(self, x):
        return self.head(self.first(x) if self.skips(self) else self.second(self.first(x)))


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_a_model_that_draws_lots_has_no_fast_path_and_no_lot_is_drawn(draw):
    model = Switched(lambda model: draw() < 2)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    following = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert assemble(model) is None
    assert draw() == following


def test_the_fast_path_is_found_again_when_a_switch_is_turned_or_a_layer_gets_a_parametrization(float64):
    lit_model = LitMAML(Switched(lambda model: model.skip).double(), inner_lr=0.1)
    x, y = torch.rand(2, 6, 4), torch.arange(2).repeat(2, 3)
    batch = EpisodeBatch(x, y, x, y, torch.arange(2))

    def loss(fast_path):
        lit_model.fast_path = fast_path
        return lit_model.outer_scores(batch).loss

    found = []
    for skip in (False, True, False):
        lit_model.model.skip = skip
        torch.testing.assert_close(loss(True), loss(False))
        found.append(loss(True))
    assert torch.equal(found[0], found[2]) and not torch.allclose(found[0], found[1])
    weight_norm(lit_model.model.first)
    torch.testing.assert_close(loss(True), loss(False))


def test_batch_norm_over_a_single_value_is_refused_on_both_paths():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.rand(1, 1, 3, 1, 1), torch.zeros(1, 1, dtype=torch.int64)
    for fast_path in (True, False):
        with pytest.raises(BadInput, match="Expected more than 1 value per channel"):
            LitMAML(copy.deepcopy(model), fast_path=fast_path).outer_scores(EpisodeBatch(x, y, x, y, torch.arange(1)))


@pytest.mark.parametrize("kind", ["max-pool", "stride", "MLP"])
def test_compiles_to_the_same_gradient(kind, batch, monkeypatch):
    """torch.compile drops what it cannot differentiate twice without a word; its tracing is tried, not its C++."""
    monkeypatch.setattr(LitMAML, "reason_not_to_compile", lambda self, batch: None)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = chain(kind)
    lit_model = LitMAML(model, inner_lr=RATE, inner_loop_steps=STEPS)
    plain = flat_gradient(lit_model.outer_scores(batch).loss.mean(), model)
    lit_model.compile_outer_step()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="--compile")  # what it says when it falls back
        compiled = flat_gradient(lit_model.training_scores(batch).loss.mean(), model)
    assert relative_error(compiled, plain) < 1e-10


def test_autocast_computes_convolutions_in_low_precision(batch):
    """Its gradient points the same way, and its weights and losses stay in float32."""
    torch.set_default_dtype(torch.float32)
    batch = batch._replace(support_x=batch.support_x.float(), query_x=batch.query_x.float())
    model = chain("stride").float()
    lit_model = LitMAML(model, inner_lr=RATE, inner_loop_steps=STEPS)
    exact = flat_gradient(lit_model.outer_scores(batch).loss.mean(), model)
    with torch.autocast("cpu", torch.bfloat16):
        scores = lit_model.outer_scores(batch)
    rough = flat_gradient(scores.loss.mean(), model)
    assert scores.loss.dtype == rough.dtype == torch.float32
    assert 1e-5 < relative_error(rough, exact) < 0.3
