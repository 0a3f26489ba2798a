"""Joint training, random initialisation and prototypical networks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import bare_trainer
from oracles import flat_gradient, relative_error

from few_shot.data import Sinusoid
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.lit_models import LitJoint, LitMAML, LitProtoNet, LitRandom
from few_shot.models import Conv4, SinusoidMLP


def test_joint_training_is_ordinary_training_on_all_samples(float64):
    torch.manual_seed(0)
    data = Sinusoid()
    batch = data.prepare(data.draw("train", 0, np.arange(4)), "train", torch.float64)
    lit_model = LitJoint(SinusoidMLP(), loss="mse_loss", metric="mse")
    x = torch.cat([batch.support_x.flatten(0, 1), batch.query_x.flatten(0, 1)])
    y = torch.cat([batch.support_y.flatten(0, 1), batch.query_y.flatten(0, 1)])
    oracle = F.mse_loss(lit_model.model(x), y)
    loss = lit_model.outer_scores(batch).loss.mean()
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-12)
    assert relative_error(flat_gradient(loss, lit_model), flat_gradient(oracle, lit_model)) < 1e-10


@pytest.mark.parametrize("cls", [LitJoint, LitRandom])
def test_baselines_are_fine_tuned_as_maml_is(cls, float64):
    data = Sinusoid()
    batch = data.prepare(data.draw("test", 0, np.arange(4)), "test", torch.float64)
    model = SinusoidMLP()
    scores, oracle = (c(model, loss="mse_loss", metric="mse").step_scores(batch, [0, 5]) for c in (cls, LitMAML))
    for ours, mamls in zip(scores, oracle, strict=True):
        torch.testing.assert_close(ours.loss, mamls.loss, rtol=0, atol=0)


def test_nothing_is_learned_at_random():
    lit_model = LitRandom(SinusoidMLP(), loss="mse_loss", metric="mse")
    before = [p.detach().clone() for p in lit_model.parameters()]
    trainer = bare_trainer(max_steps=500)
    trainer.fit(lit_model, datamodule=Sinusoid())
    assert trainer.global_step == 1
    assert all(torch.equal(p, b) for p, b in zip(lit_model.parameters(), before, strict=True))


def class_episodes(ways=4, shots=3, queries=2, tasks=2):
    torch.manual_seed(0)
    x = [torch.rand(tasks, ways * n, 3, 16, 16) for n in (shots, queries)]
    # Labels in an order of each task's own, as nothing promises that samples lie class by class.
    y = [
        torch.stack([torch.arange(ways).repeat_interleave(n)[torch.randperm(ways * n)] for _ in range(tasks)])
        for n in (shots, queries)
    ]
    return EpisodeBatch(x[0], y[0], x[1], y[1], torch.arange(tasks))


def plain_logits(embed, support_x, support_y, query_x, ways):
    """Snell et al. 2017, algorithm 1, sample by sample."""
    embedded = embed(torch.cat([support_x, query_x]))
    support, query = embedded[: len(support_x)], embedded[len(support_x) :]
    prototypes = [support[support_y == c].mean(0) for c in range(ways)]
    return torch.stack([torch.stack([-(q - p).pow(2).sum() for p in prototypes]) for q in query])


@pytest.mark.parametrize("fast_path", [True, False], ids=["folded", "vmap"])
def test_prototypes_are_those_of_the_plain_loop(fast_path, float64):
    lit_model = LitProtoNet(Conv4((3, 16, 16), 30, width=6), fast_path=fast_path)
    assert (lit_model.folded_layers is not None) == fast_path
    batch = class_episodes()
    losses = []
    for sx, sy, qx, qy, _ in zip(*batch, strict=True):
        losses.append(F.cross_entropy(plain_logits(lit_model.model.body, sx, sy, qx, 4), qy))
    loss, oracle = lit_model.outer_scores(batch).loss.mean(), torch.stack(losses).mean()
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-10)
    assert relative_error(flat_gradient(loss, lit_model), flat_gradient(oracle, lit_model)) < 1e-9


def test_the_head_is_gone_and_any_number_of_ways_will_do(float64):
    lit_model = LitProtoNet(Conv4((3, 16, 16), 5, width=6))
    assert not any("head" in name for name, _ in lit_model.named_parameters())
    lit_model.outer_scores(class_episodes(ways=9)).loss.sum().backward()
    unreached = {name for name, p in lit_model.named_parameters() if p.grad is None}
    assert unreached <= {f"model.body.{4 * block}.bias" for block in range(4)}  # batch norm takes them off again
    for ways in (3, 9):
        assert lit_model.logits(class_episodes(ways), transductive=True).shape == (2, 2 * ways, ways)


def test_distances_are_of_full_precision_under_autocast():
    lit_model, batch = LitProtoNet(Conv4((3, 16, 16), 5, width=6)), class_episodes()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = lit_model.logits(batch, transductive=True)
        embedded = lit_model.embed(torch.cat([batch.support_x, batch.query_x], dim=1)).double()
    support, query = embedded.split([batch.support_x.shape[1], batch.query_x.shape[1]], dim=1)
    prototypes = [support[0][batch.support_y[0] == c].mean(0) for c in range(4)]
    oracle = torch.stack([-(query[0] - p).square().sum(-1) for p in prototypes], dim=-1)
    torch.testing.assert_close(logits[0].double(), oracle, rtol=1e-4, atol=1e-4)


def test_one_result_without_inner_steps():
    lit_model = LitProtoNet(Conv4((3, 16, 16), 5, width=6))
    assert lit_model.test_inner_loop_steps == 0
    (scores,) = lit_model.step_scores(class_episodes(), [0])
    assert scores.metric.shape == (2,)


def test_no_query_sample_sees_another_unless_transductive(float64):
    lit_model = LitProtoNet(Conv4((3, 16, 16), 5, width=6))
    batch = class_episodes()
    for transductive in (False, True):
        together = lit_model.logits(batch, transductive)
        alone = lit_model.logits(batch._replace(query_x=batch.query_x[:, :1]), transductive)
        assert torch.allclose(together[:, :1], alone, rtol=1e-9) == (not transductive)


def test_near_samples_are_of_the_same_class():
    """Clusters of pixels are told apart without any training, whatever the labels' order."""
    batch = class_episodes(ways=5, shots=5)
    centre = torch.rand(5, 3, 16, 16)
    x = {f"{part}_x": centre[y] for part, y in (("support", batch.support_y), ("query", batch.query_y))}
    noisy = {name: images + 0.01 * torch.randn_like(images) for name, images in x.items()}
    (scores,) = LitProtoNet(Conv4((3, 16, 16), 5, width=16)).step_scores(batch._replace(**noisy), [0])
    assert scores.metric.min() == 1


def test_regression_has_no_prototypes():
    with pytest.raises(BadInput, match="LitProtoNet needs classes"):
        LitProtoNet(SinusoidMLP(), metric="mse", loss="mse_loss")
