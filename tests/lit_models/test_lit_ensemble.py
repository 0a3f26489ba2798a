"""An ensemble's members are copies of the learner, each with its own weights."""

import pytest
import torch

from few_shot.episodes import EpisodeBatch
from few_shot.lit_models import LitMAML, LitMAMLPlusPlus, LitProtoNet
from few_shot.lit_models.ensemble import LitEnsemble
from few_shot.models import Conv4


@pytest.mark.parametrize("cls", [LitMAML, LitMAMLPlusPlus, LitProtoNet])
def test_it_predicts_the_mean_and_leaves_the_learner_as_it_is(cls, float64):
    torch.manual_seed(0)
    labels = torch.arange(3).repeat(2, 2)
    images = torch.rand(2, 6, 3, 16, 16)
    batch = EpisodeBatch(images, labels, images + 0.1, labels, torch.arange(2))
    lit_model = cls(Conv4((3, 16, 16), 3, width=4)).eval()
    members, logits = [], []
    for _ in range(2):
        for p in lit_model.parameters():
            torch.nn.init.normal_(p, std=0.1)
        members.append({name: value.clone() for name, value in lit_model.state_dict().items()})
        with torch.no_grad():
            logits.append(lit_model.step_predictions(batch, [0])[0])
    assert not torch.allclose(*logits, rtol=1e-3)
    ensemble = LitEnsemble(lit_model, members)
    ensemble.test_step(batch._replace(support_y=labels.int(), query_y=labels.int()), 0)  # a person's own labels
    before = {name: value.clone() for name, value in lit_model.state_dict().items()}
    (scores,) = ensemble.eval().step_scores(batch, [0])
    torch.testing.assert_close(scores.loss, lit_model.loss(sum(logits) / 2, labels))
    assert all(torch.equal(value, before[name]) for name, value in lit_model.state_dict().items())
