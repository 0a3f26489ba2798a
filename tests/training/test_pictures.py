"""Pictures: none is false, and none ends a run of any algorithm on any data with a traceback."""

import numpy as np
import pytest
import torch
from helpers import write_random_class_folders

import few_shot.lit_models
from few_shot.data import Sinusoid
from few_shot.data.curves import CurveEpisodes
from few_shot.episodes import EpisodeBatch
from few_shot.errors import BadInput
from few_shot.lit_models.base import LitMetaLearner
from few_shot.plots import draw_fit
from training import run_experiment
from training.pictures import draw_curves

QUICK = ["--gpus=0", "--batch_size=2", "--max_steps=1", "--val_episodes=2", "--test_episodes=2"]


class Doubled(Sinusoid):
    """Draws other tasks than its parent, whose truth is not theirs."""

    def draw(self, split, seed, index):
        batch = super().draw(split, seed, index)
        return batch._replace(support_y=2 * batch.support_y, query_y=2 * batch.query_y)


class Cosine(Sinusoid):
    """Says what its tasks are."""

    def truth(self, split, seed, index, x):
        amplitude, phase = self.waves(split, seed, index)
        return amplitude * np.cos(x - phase)


class Plane(Sinusoid):
    """A number of two numbers: nothing to draw as a curve."""

    input_shape = (2,)

    def draw(self, split, seed, index):
        batch = super().draw(split, seed, index)
        return EpisodeBatch(
            *(torch.cat([x, x], -1) if name.endswith("_x") else x for name, x in batch._asdict().items())
        )


class NearestPoint(LitMetaLearner):
    """An algorithm of somebody's own, without an inner loop: each query takes the value of the nearest point."""

    def outer_scores(self, batch):
        nearest = torch.cdist(batch.query_x, batch.support_x).argmin(-1, keepdim=True)
        return self.scores(batch.support_y.gather(1, nearest) + 0 * next(self.parameters()).sum(), batch.query_y)

    def step_predictions(self, batch, steps):
        nearest = torch.cdist(batch.query_x, batch.support_x).argmin(-1, keepdim=True)
        return [batch.support_y.gather(1, nearest)] * len(steps)


OWN = [f"--data_class=test_pictures.{name}" for name in ("Doubled", "Plane")]


@pytest.fixture(scope="module")
def image_folders(tmp_path_factory):
    return write_random_class_folders(tmp_path_factory.mktemp("images"), classes=5, images=4)


@pytest.mark.parametrize("algorithm", few_shot.lit_models.__all__)
def test_a_run_of_any_algorithm_on_any_data_draws_its_pictures(algorithm, image_folders, tmp_path):
    images = ["--data_class=MiniImagenet", f"--data_dir={image_folders}", "--width=2", "--query_samples=1"]
    images += ["--test_query_samples=1", "--train_episode_classes=5"]
    regressions = [["--model_class=SinusoidMLP", "--width=4", data] for data in OWN]
    of_classes = algorithm in ("LitProtoNet", "LitProtoMAML")
    steps = [] if algorithm == "LitProtoNet" else ["--test_inner_loop_steps=1"]
    for i, data in enumerate([images, *([] if of_classes else regressions)]):
        log_dir = tmp_path / str(i)
        run_experiment.main([*data, *QUICK, *steps, f"--lit_model_class={algorithm}", f"--log_dir={log_dir}"])
        (folder,) = log_dir.glob("*/version_0")
        assert (folder / "curves.png").stat().st_size > 10_000
        assert (folder / "fit.png").exists() == (data is not images and "Plane" not in data[-1])
        assert (folder / "sheet.png").exists() == (data is images)
        assert (folder / "steps.svg").exists() == (algorithm != "LitProtoNet")
        assert "<h2>Test</h2>" in (folder / "report.html").read_text()


def test_an_algorithm_of_ones_own_without_an_inner_loop(tmp_path):
    flags = ["--data_class=Sinusoid", "--width=4", "--lit_model_class=test_pictures.NearestPoint"]
    run_experiment.main([*flags, *QUICK, f"--log_dir={tmp_path}"])
    assert (tmp_path / "Sinusoid-NearestPoint" / "version_0" / "curves.png").exists()
    assert not (tmp_path / "Sinusoid-NearestPoint" / "version_0" / "fit.png").exists()


@pytest.mark.parametrize("data_class", [Sinusoid, Cosine, Doubled])
def test_the_truth_that_is_drawn_passes_through_the_support_points(data_class):
    data = data_class(support_samples=20)
    lit_model = few_shot.lit_models.LitMAML(few_shot.models.SinusoidMLP(), loss="mse_loss", metric="mse")
    (axis,) = draw_fit(lit_model, data, episode=3).axes
    curves = {line.get_label(): line.get_data() for line in axis.lines}
    assert {"support points", "before adaptation", "after 1 step", "after 10 steps"} <= set(curves)
    if data_class is Doubled:
        assert "truth" not in curves
        return
    (x, y), (points, values) = curves["truth"], curves["support points"]
    assert np.abs(np.interp(points, x, y) - values).max() < 0.01


class Root(CurveEpisodes):
    """A curve that there is between 0 and 1 alone."""

    low, high = 0.0, 1.0

    def truth(self, split, seed, index, x):
        return np.sqrt(x) * self.numbers(split, seed, index, 1)[:, 0]


def test_a_curve_is_drawn_where_its_tasks_lie():
    lit_model = few_shot.lit_models.LitMAML(few_shot.models.SinusoidMLP(), loss="mse_loss", metric="mse")
    (axis,) = draw_fit(lit_model, Root(support_samples=5)).axes
    (truth,) = (line for line in axis.lines if line.get_label() == "truth")
    assert (truth.get_xdata().min(), truth.get_xdata().max()) == (0, 1) and np.isfinite(truth.get_ydata()).all()


def test_a_picture_that_cannot_be_drawn_says_so():
    with pytest.raises(BadInput, match="Only curves are drawn"):
        draw_fit(few_shot.lit_models.LitMAML(few_shot.models.SinusoidMLP()), Plane())


def test_losses_that_are_not_positive_are_drawn(tmp_path):
    folder = run_experiment.RunFolder(tmp_path / "run" / "version_0")
    folder.path.mkdir(parents=True)
    folder.append_metrics([{"step": i, "train_loss": -1.0 - i, "val_loss": float("nan")} for i in range(3)])
    assert folder.write_picture("curves", draw_curves(folder)).stat().st_size > 10_000
