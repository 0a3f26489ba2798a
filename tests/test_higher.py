"""LitMAML against an independent implementation, where one is installed: `pip install higher`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import flat_gradient, relative_error

from few_shot.data import Sinusoid
from few_shot.lit_models import LitMAML
from few_shot.models import SinusoidMLP

higher = pytest.importorskip("higher")


@pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])
@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_same_weights_and_episodes_give_the_same_meta_gradient(name, first_order, float64):
    torch.manual_seed(0)
    data = Sinusoid()
    batch = data.prepare(data.draw("train", 0, np.arange(8)), "train", torch.float64)
    arguments = {"inner_lr": 0.01, "inner_loop_steps": 3, "inner_optimizer": name, "first_order": first_order}
    lit_model = LitMAML(SinusoidMLP(), loss="mse_loss", metric="mse", **arguments)
    model = lit_model.model
    inner = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9 if name == "momentum" else 0.0)
    losses = []
    for x, y, query_x, query_y, _ in zip(*batch, strict=True):
        with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (functional, optimizer):
            for _ in range(3):
                # Gradients that are constants, as in FOMAML, while the way back to the initial weights stays open.
                callback = (lambda gradients: [g.detach() for g in gradients]) if first_order else None
                optimizer.step(F.mse_loss(functional(x), y), grad_callback=callback)
            losses.append(F.mse_loss(functional(query_x), query_y))
    oracle = flat_gradient(torch.stack(losses).mean(), model)
    gradient = flat_gradient(lit_model.outer_scores(batch).loss.mean(), model)
    assert relative_error(gradient, oracle) < 1e-12
