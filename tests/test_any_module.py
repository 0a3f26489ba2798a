"""Any module is adapted, vectorised or not, and a layer that does not fit its input is named."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from oracles import flat_gradient, meta_gradient, relative_error
from torch import nn

from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.lit_models import LitMAML, LitMAMLPlusPlus, LitProtoNet
from few_shot.models import Conv4, SinusoidMLP

STEPS, RATE = 2, 0.1


class LastOfAnLSTM(nn.Module):
    """Sequences ``[n, length, 2]`` to logits ``[n, 3]``."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class WithItem(nn.Sequential):
    """Looks at its data in Python, which no vectorised code can."""

    def forward(self, x):
        return super().forward(x if x.sum().item() > 0 else x + 0)


def episodes(*shape):
    torch.manual_seed(0)
    x, y = torch.rand(2, 6, *shape), torch.arange(3).repeat(2).expand(2, -1)
    return EpisodeBatch(x, y, x + 0.1, y, torch.arange(2))


@pytest.mark.parametrize(
    ("model", "shape"),
    [(LastOfAnLSTM, (4, 2)), (lambda: WithItem(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3)), (2,))],
    ids=["LSTM", "item()"],
)
def test_what_cannot_be_vectorised_runs_task_by_task_and_says_so(model, shape, float64):
    torch.manual_seed(0)
    model, batch = model(), episodes(*shape)
    lit_model = LitMAML(model, inner_lr=RATE, inner_loop_steps=STEPS)
    with pytest.warns(UserWarning, match=f"{type(model).__name__} runs for one task after the other") as said:
        gradient = flat_gradient(lit_model.outer_scores(batch).loss.mean(), model)
    assert len(said) == 1
    assert relative_error(gradient, meta_gradient(model, F.cross_entropy, batch, STEPS, RATE)) < 1e-10
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        lit_model.step_scores(batch, [0, STEPS])


def test_an_lstm_in_single_precision_has_a_second_order_gradient():
    model = LastOfAnLSTM()
    with pytest.warns(UserWarning, match="one task after the other"):
        LitMAML(model, inner_lr=RATE, inner_loop_steps=STEPS).outer_scores(episodes(4, 2)).loss.sum().backward()
    assert all(p.grad.norm() > 0 for p in model.lstm.parameters())


def test_per_step_batch_norm_is_collected_task_by_task_too(float64):
    """The same statistics as vectorised."""
    torch.manual_seed(0)
    vectorised = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    looped = WithItem(*copy.deepcopy(vectorised))
    found = []
    for model in (vectorised, looped):
        lit_model = LitMAMLPlusPlus(model, inner_lr=RATE, inner_loop_steps=STEPS)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*one task after the other")
            lit_model.outer_scores(episodes(2))
        found.append(lit_model.norms[0].collected.clone())
    assert found[0].abs().sum() > 1
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize(
    ("model", "batch", "sentence"),
    [
        (
            lambda: Conv4((1, 28, 28), 3, width=4),
            episodes(1, 84, 84),
            r"layer head, Linear\(in_features=4, .*shape \(100,\)",
        ),
        (
            lambda: Conv4((3, 16, 16), 3, width=4),
            episodes(1, 16, 16),
            r"layer body\.0, Conv2d\(3, 4, .*shape \(1, 16, 16\)",
        ),
        (lambda: Conv4((3, 16, 16), 3, width=4), episodes(16, 16), r"layer body\.0, Conv2d\(3, 4, .*shape \(16, 16\)"),
        (
            lambda: SinusoidMLP((2,), 3),
            episodes(3),
            r"layer 1, Linear\(in_features=2, .* float32 samples of shape \(3,\)",
        ),
        (lambda: SinusoidMLP((3,), 3).double(), episodes(3), r"layer 1, Linear\(.* cannot take float32 samples"),
    ],
    ids=["image size", "channels", "no channels", "features", "number type"],
)
def test_a_layer_that_does_not_fit_is_named(model, batch, sentence, fast_path):
    with pytest.raises(BadInput, match=sentence):
        LitMAML(model(), fast_path=fast_path).outer_scores(batch)


def test_it_is_named_without_an_inner_loop_too():
    with pytest.raises(BadInput, match=r"layer body\.0, Conv2d"):
        LitProtoNet(Conv4((3, 16, 16), 3, width=4)).outer_scores(episodes(1, 16, 16))


def test_an_error_of_the_models_own_is_left_as_it_is():
    class Failing(nn.Linear):
        def forward(self, x):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        LitMAML(nn.Sequential(nn.Linear(2, 3), nn.Sequential(Failing(3, 3)))).outer_scores(episodes(2))


class Attention(nn.Module):
    """Sets ``[n, 4, 8]`` to logits ``[n, 3]``, by attention of three kinds."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.head = kind, nn.Linear(8, 3)
        if kind == "encoder":
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        elif kind == "multihead":
            self.layer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        if self.kind == "encoder":
            x = self.layer(x)
        elif self.kind == "multihead":
            x = self.layer(x, x, x)[0]
        elif self.kind == "function":
            x = F.scaled_dot_product_attention(x, x, x)
        else:
            x = (x @ x.mT / 8**0.5).softmax(-1) @ x
        return self.head(x.mean(1))


@pytest.mark.parametrize("kind", ["encoder", "multihead", "function"])
def test_attention_has_a_second_derivative(kind, float64):
    torch.manual_seed(0)
    model, batch = Attention(kind), episodes(4, 8)
    lit_model = LitMAML(model, inner_lr=RATE, inner_loop_steps=STEPS)
    gradient = flat_gradient(lit_model.outer_scores(batch).loss.mean(), model)
    assert gradient.isfinite().all()
    lit_model.eval()
    with torch.no_grad():
        adapted = lit_model.adapted_model(batch.support_x[0], batch.support_y[0], STEPS)(batch.query_x[0])
        by_episode = lit_model.step_predictions(batch, [STEPS])[0][0]
    torch.testing.assert_close(adapted, by_episode, rtol=1e-6, atol=1e-6)


def test_attention_by_pytorch_is_attention_by_hand(float64):
    found = []
    for kind in ("function", "by hand"):
        torch.manual_seed(0)
        model = Attention(kind)
        lit_model = LitMAML(model, inner_lr=RATE, inner_loop_steps=STEPS)
        found.append(flat_gradient(lit_model.outer_scores(episodes(4, 8)).loss.mean(), model))
    assert relative_error(*found) < 1e-10


class OnlyInTraining(nn.Sequential):
    """A chain in evaluation, and something else in training."""

    def forward(self, x):
        x = super().forward(x)
        return F.dropout(x, 0.5) if self.training else x


class Stores(nn.Sequential):
    """Keeps an activation, as people do to look at it."""

    def forward(self, x):
        self.features = self[0](x)
        return super().forward(x)


def chain():
    return nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3)


def test_what_differs_in_training_takes_no_fast_path():
    lit_model = LitMAML(OnlyInTraining(*chain())).eval()
    assert lit_model.folded_layers is None
    assert LitMAML(nn.Sequential(*chain())).eval().folded_layers is not None


def test_the_fast_path_follows_a_replaced_layer_and_a_new_hook():
    lit_model = LitMAML(nn.Sequential(*chain())).eval()
    batch = episodes(2)
    lit_model.step_predictions(batch, [1])
    lit_model.model[1] = nn.Tanh()
    fresh = LitMAML(copy.deepcopy(lit_model.model)).eval()
    torch.testing.assert_close(lit_model.step_predictions(batch, [1]), fresh.step_predictions(batch, [1]))
    lit_model.model[1] = nn.ReLU()
    assert lit_model.folded_layers is not None
    lit_model.model[0].register_forward_hook(lambda *_: None)
    assert lit_model.folded_layers is None


def test_a_layer_whose_forward_was_replaced_takes_no_fast_path():
    lit_model = LitMAML(nn.Sequential(*chain()))
    lit_model.model[1].forward = torch.tanh
    assert lit_model.folded_layers is None


@pytest.mark.parametrize("fast_path", [True, False])
def test_a_model_that_stores_activations_adapts(fast_path):
    batch = episodes(2)
    lit_model = LitMAML(Stores(*chain()), fast_path=fast_path)
    lit_model.outer_scores(batch).loss.mean().backward()
    assert lit_model.adapted_model(batch.support_x[0], batch.support_y[0], 1)(batch.query_x[0]).shape == (6, 3)


def test_an_adapted_model_is_of_evaluation_whatever_the_mode():
    torch.manual_seed(0)
    batch, lit_model = episodes(3, 16, 16), LitMAML(Conv4((3, 16, 16), 3, width=4, dropout=0.5)).train()
    first, second = (lit_model.adapted_model(batch.support_x[0], batch.support_y[0], 2) for _ in range(2))
    assert torch.equal(first(batch.query_x[0]), second(batch.query_x[0]))
    assert lit_model.training


def looks_at_its_numbers(predictions, targets):
    loss = F.cross_entropy(predictions, targets)
    return loss * 2 if loss.item() > 0 else loss


def test_a_loss_that_looks_at_its_numbers_is_called_task_by_task(float64):
    torch.manual_seed(0)
    model, batch = nn.Sequential(*chain()), episodes(2)
    own, plain = (LitMAML(model, loss=loss).outer_scores(batch).loss for loss in (looks_at_its_numbers, None))
    assert own.shape == plain.shape == (2,)
    assert own.isfinite().all()


class Pair(nn.Sequential):
    """Returns its features too."""

    def forward(self, x):
        features = self[0](x)
        return self[1](features), features


@pytest.mark.parametrize("cls", [LitMAML, LitMAMLPlusPlus, LitProtoNet])
def test_a_model_that_returns_no_tensor_is_refused(cls):
    with pytest.raises(BadInput, match=r"Pair returns a value of type tuple: let its forward\(\) return one tensor"):
        cls(Pair(nn.Linear(2, 5), nn.Linear(5, 3))).outer_scores(episodes(2))


def test_lazy_layers_are_refused():
    with pytest.raises(BadInput, match=r"Sequential does not know the size of 0\.weight yet"):
        LitMAML(nn.Sequential(nn.LazyLinear(3)))
