"""The networks as their papers describe them."""

import pytest
import torch
from torch import nn

from few_shot.lit_models import LitMAML
from few_shot.models import Conv4


def test_mamls_batch_norm_has_a_shift_but_no_scale():
    """Its code's defaults (TensorFlow 1): epsilon 1e-3, center, no scale."""
    model = Conv4((3, 16, 16), 5, width=4, norm="batch_shift")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 4 and {n.eps for n in norms} == {1e-3}
    assert not any(n.weight.requires_grad for n in norms) and all(n.bias.requires_grad for n in norms)
    lit_model = LitMAML(model)
    assert not any(n.weight is p for n in norms for p in lit_model.adapted_weights().values())
    x = torch.rand(7, 4, 5, 5)
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(norms[0](x), expected)


@pytest.mark.parametrize("kind", ["xavier", "finn2017"])
def test_initial_weights_are_glorots(kind):
    torch.manual_seed(0)
    model = Conv4((1, 28, 28), 20, width=64, downsample="stride", initial_weights=kind)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert not module.bias.any()
    filters = model.body[3].weight
    bound = (6 / (9 * 64 + 9 * 64)) ** 0.5
    assert filters.abs().max() <= bound and filters.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    head = 1.0 if kind == "finn2017" else (2 / (64 + 20)) ** 0.5
    assert model.head.weight.std().item() == pytest.approx(head, rel=0.05)


def test_a_leaky_relu_leaks():
    model = Conv4((3, 16, 16), 5, width=4, activation="leaky_relu")
    slopes = [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.01] * 4
