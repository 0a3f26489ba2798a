"""Inner steps that are computed again have the gradient of inner steps that are kept, and no graph until then."""

import weakref

import pytest
import torch
from helpers import BatchNormMLP
from oracles import flat_gradient, meta_gradient, relative_error
from torch import nn
from torch.nn import functional as F

import few_shot.lit_models as algorithms
from few_shot.episodes import EpisodeBatch
from few_shot.models import Conv4

MEMBERS = ["LitMAML", "LitANIL", "LitBOIL", "LitMetaSGD", "LitProtoMAML", "LitMAMLPlusPlus"]
STEPS = 4


def classes(shape, tasks=2, ways=3):
    x = [torch.rand(tasks, n * ways, *shape) for n in (2, 3)]
    y = [torch.arange(ways).repeat_interleave(n).expand(tasks, -1).contiguous() for n in (2, 3)]
    return EpisodeBatch(x[0], y[0], x[1], y[1], torch.arange(tasks))


def build(name, model, **arguments):
    """An algorithm with weights, norms and rates that are all different."""
    torch.manual_seed(0)
    rate = {"inner_lr_max": 0.2} if name == "LitMetaSGD" else {"inner_lr": 0.2}
    lit_model = getattr(algorithms, name)(model(), inner_loop_steps=STEPS, **rate, **arguments)
    for p in lit_model.parameters():
        nn.init.normal_(p, p.mean().item(), 0.1)
    return lit_model


def conv4():
    return Conv4((3, 16, 16), 3, width=4)


def gradient(lit_model, batch):
    torch.manual_seed(1)
    return flat_gradient(lit_model.outer_scores(batch).loss.mean(), lit_model)


@pytest.mark.parametrize("fast_path", [True, False], ids=["folded", "vmap"])
@pytest.mark.parametrize("name", MEMBERS)
def test_the_gradient_is_the_same(name, fast_path, float64):
    batch = classes((3, 16, 16))
    kept, again = (
        gradient(build(name, conv4, fast_path=fast_path, checkpoint_inner_loop=on), batch) for on in (False, True)
    )
    assert kept.norm() > 1e-3
    assert relative_error(again, kept) < 1e-12


def mlp_with_norm():
    return BatchNormMLP((4,), 3)


def mlp_with_dropout():
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("name", "model", "arguments"),
    [
        ("LitMAML", mlp_with_norm, {"inner_optimizer": "momentum"}),
        ("LitMAML", mlp_with_norm, {"inner_optimizer": "adam"}),
        ("LitMetaSGD", mlp_with_norm, {"inner_optimizer": "adam"}),
        ("LitMAML", mlp_with_norm, {"adapt_norm": False}),
        ("LitMAMLPlusPlus", mlp_with_norm, {"multi_step_loss_updates": 0}),
        ("LitMAMLPlusPlus", mlp_with_norm, {"per_step_bn_weights": False}),
        ("LitMAML", mlp_with_dropout, {}),
    ],
)
def test_the_gradient_is_the_same_whatever_a_step_keeps(name, model, arguments, float64):
    batch = classes((4,))
    learners = [build(name, model, checkpoint_inner_loop=on, **arguments) for on in (False, True)]
    kept, again = (gradient(learner, batch) for learner in learners)
    assert kept.norm() > 1e-3
    assert relative_error(again, kept) < 1e-12
    for a, b in zip(*(learner.buffers() for learner in learners), strict=True):  # statistics are collected once
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_it_is_the_plain_loops_gradient(float64):
    lit_model = build("LitMAML", conv4, checkpoint_inner_loop=True, loss="cross_entropy", metric="accuracy")
    oracle = meta_gradient(lit_model.model, F.cross_entropy, batch := classes((3, 16, 16)), STEPS, 0.2)
    assert relative_error(gradient(lit_model, batch), oracle) < 1e-10


def test_autocast_holds_when_a_step_is_computed_again():
    batch = classes((3, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        kept, again = (build("LitMAML", conv4, checkpoint_inner_loop=on) for on in (False, True))
        losses = [learner.outer_scores(batch).loss.mean() for learner in (kept, again)]
    assert relative_error(flat_gradient(losses[1], again), flat_gradient(losses[0], kept)) < 1e-5


class Held:
    def __init__(self, tensor):
        self.tensor = tensor


def test_only_what_a_step_starts_from_is_kept(float64):
    """Bytes that the graph holds on to for each step more, in fast weights of the two tasks."""

    def growth(on):
        sizes = []
        for steps in (2, 6):
            lit_model, held = build("LitMAML", conv4, checkpoint_inner_loop=on), weakref.WeakSet()
            lit_model.inner_loop_steps = steps

            def hold(tensor, held=held):
                held.add(found := Held(tensor))
                return found

            with torch.autograd.graph.saved_tensors_hooks(hold, lambda found: found.tensor):
                loss = lit_model.outer_scores(classes((3, 16, 16))).loss
            sizes.append(sum({found.tensor.data_ptr(): found.tensor.nbytes for found in held}.values()))
            del loss
        return (sizes[1] - sizes[0]) / 4 / (2 * sum(p.nbytes for p in lit_model.model.parameters()))

    assert growth(True) < 1.1
    assert growth(False) > 10
