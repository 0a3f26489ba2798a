"""Each picture of a run shows the numbers that it says it shows."""

import shlex

import numpy as np
import pytest
import torch

from few_shot.data import Sinusoid
from few_shot.evaluation import EpisodeResults, mean_ci95
from few_shot.figure_style import WIDTH
from training import visualize
from training.command_line import parse, same_tasks
from training.experiment import load_weights
from training.gradients import draw_gradients
from training.pictures import draw_curves, draw_steps


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw a picture; returns its figure and what the file is called."""
    figures = []
    monkeypatch.setattr(visualize, "save", lambda figure, path: figures.append((figure, path)))
    monkeypatch.chdir(tmp_path)

    def draw(*flags):
        visualize.main([str(flag) for flag in flags])
        return figures[-1]

    return draw


def refusal(capsys, *flags):
    with pytest.raises(SystemExit) as exit_:
        visualize.main([str(flag) for flag in flags])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def errors_after(lit_model, data, episode, steps):
    """The mean squared error of one task, step by step, from the learner's own fast weights."""
    batch = data.prepare(data.draw("test", 0, np.array([episode])), "test", torch.float32)
    with torch.no_grad():
        adapted = lit_model.adapt(batch.support_x, batch.support_y, max(steps))
        predict = lit_model.predictions_of(batch.query_x)
        each = [(predict(weights) - batch.query_y).square().mean().item() for weights in adapted]
    return [each[step] for step in steps]


def test_maml_joint_training_and_random_initialisation_on_the_same_points(maml_and_joint, drawn):
    maml, joint = maml_and_joint
    flags = ["--steps", 0, 2, 5, "--shots", 7, "--episode", 3, "--against", "joint", "random"]
    figure, path = drawn(f"--checkpoint={maml.path}", *flags)
    assert str(path) == "fit.png"
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["MAML", "joint training", "random initialisation"]
    lines = [{line.get_label(): line.get_xydata() for line in axis.lines} for axis in figure.axes]
    for of_one in lines:
        assert {"before adaptation", "after 2 steps", "after 5 steps"} < set(of_one)
        np.testing.assert_array_equal(of_one["support points"], lines[0]["support points"])
    assert len(lines[0]["support points"]) == 7
    data = Sinusoid(support_samples=7)
    initial = visualize.parse([f"--checkpoint={maml.path}"], "", visualize.PictureOptions, "checkpoint").modules()[1]
    for axis, run in zip(figure.axes, (maml, joint, None), strict=True):
        if run is not None:
            load_weights(initial, str(run.path), "checkpoint")
        else:
            flags = [f"--checkpoint={maml.path}", "--lit_model_class=LitRandom"]
            initial = visualize.parse(flags, "", visualize.PictureOptions, "checkpoint").modules()[1]
        texts = [text.get_text() for text in axis.get_legend().get_texts()]
        shown = [float(text.partition("MSE ")[2]) for text in texts if "MSE" in text]
        assert shown == pytest.approx(errors_after(initial, data, 3, (0, 2, 5)), rel=0.01)


@pytest.mark.parametrize(
    ("picture", "flag"),
    [
        ("curves", "--steps=[3]"),
        ("curves", "--shots=2"),
        ("updates", "--episode=3"),
        ("confusion", "--against=[random]"),
    ],
)
def test_a_flag_that_a_picture_does_not_take_is_refused(picture, flag, maml_and_joint, capsys):
    line = refusal(capsys, f"--checkpoint={maml_and_joint[0].path}", f"--picture={picture}", flag)
    assert f"{flag.partition('=')[0]} has no use with --picture={picture}." in line


def test_results_against_inner_steps_of_several_runs_beyond_those_of_training(maml_and_joint, drawn):
    maml, joint = maml_and_joint
    figure, path = drawn(f"--checkpoint={maml.path}", "--picture=steps", "--steps=5", f"--against={joint.path}")
    assert str(path) == "steps.png"
    (axis,) = figure.axes
    curves = {line.get_label(): line.get_xydata() for line in axis.lines}
    for name, run in (("MAML", maml), ("joint training", joint)):
        assert curves[name][:, 0].tolist() == list(range(6))
        logged = [row["mean"] for row in run.result()["per_step"]]
        np.testing.assert_allclose(curves[name][:4, 1], logged, rtol=1e-4)
    assert len(axis.collections) == 2  # the bands


def test_the_kept_checkpoints_are_tested_and_validation_is_called_validation(maml_and_joint, drawn, capsys):
    maml, _ = maml_and_joint
    figure, _ = drawn(f"--checkpoint={maml.path}", "--picture=updates", "--test_episodes=6")
    assert "2 checkpoints, which are tested now" in capsys.readouterr().err
    handles, labels = figure.axes[0].get_legend_handles_labels()
    assert labels == ["validation, logged by the run", "test of a kept checkpoint"]
    np.testing.assert_allclose(handles[0].get_xydata(), maml.curve("val_mse"))
    tested = dict(handles[1].lines[0].get_xydata())
    assert list(tested) == [2, 4]
    (best,) = {update for update, _ in maml.curve("val_mse") if _ == min(v for _, v in maml.curve("val_mse"))}
    assert tested[best] == pytest.approx(maml.result()["mean"], rel=1e-5)


def test_training_validation_and_gradient_on_one_axis(maml_and_joint):
    maml, _ = maml_and_joint
    loss, norm = draw_curves(maml).axes  # the error is the loss, and drawn once
    assert loss.get_ylabel() == "mean squared error" and norm.get_xlabel() == "outer updates"
    np.testing.assert_allclose(loss.lines[0].get_xydata(), maml.curve("train_loss"))
    np.testing.assert_allclose(loss.lines[-1].get_xydata(), maml.curve("val_mse"))
    np.testing.assert_allclose(norm.lines[0].get_xydata(), maml.curve("grad_norm"))


def test_gradient_histograms_are_read_back_and_drawn(maml_and_joint, monkeypatch):
    maml, joint = maml_and_joint
    logged = maml.gradient_histograms()
    updates = [update for update, _ in maml.curve("grad_norm")]
    assert len(logged) == 6  # weights and biases of three layers
    assert [[update for update, _ in found] for found in logged.values()] == [updates] * 6
    at_once = list(zip(*logged.values(), strict=True))
    squares = [sum((cells[:, 0] ** 2 * cells[:, 1]).sum() for _, cells in found) for found in at_once]
    norms = [value for _, value in maml.curve("grad_norm")]
    np.testing.assert_allclose(np.sqrt(squares), norms, rtol=0.1)  # a bucket is 10 % wide
    figure = draw_gradients(maml)
    for axis in figure.axes[:6]:
        shares = axis.collections[0].get_array().reshape(-1, len(updates))
        np.testing.assert_allclose(shares.sum(0), 100)
    assert draw_gradients(joint) is None
    once = {name: found[:1] for name, found in logged.items()}
    monkeypatch.setattr(type(maml), "gradient_histograms", lambda folder: once)
    assert len(draw_gradients(maml).axes[0].collections[0].get_array().reshape(-1, 1)) > 1


def test_what_cannot_be_drawn_is_one_sentence(maml_and_joint, capsys, tmp_path):
    maml, joint = maml_and_joint
    of_maml, of_joint = f"--checkpoint={maml.path}", f"--checkpoint={joint.path}"
    assert "train with --log_gradient_histograms" in refusal(capsys, of_joint, "--picture=gradients")
    assert "something else" in refusal(capsys, of_maml, "--picture=confusion")
    assert "--steps=-1" in refusal(capsys, of_maml, "--steps", -1)
    assert "no use with --picture=curves" in refusal(capsys, of_maml, "--picture=curves", "--against=random")
    assert "does not exist" in refusal(capsys, of_maml, f"--against={tmp_path / 'nothing.ckpt'}")
    (tmp_path / "alone").mkdir()
    last = tmp_path / "alone" / "last.ckpt"
    last.write_bytes(maml.last_checkpoint.read_bytes())
    joint.path.parent.rename(tmp_path / "away")
    try:
        line = refusal(capsys, of_maml, "--against", "joint")
    finally:
        (tmp_path / "away").rename(joint.path.parent)
    command = shlex.split(line.partition("This trains it: ")[2])
    assert command[:2] == ["python", "training/run_experiment.py"]
    joint_config, wanted = parse(command[2:], "").config, maml.config()
    assert joint_config["lit_model_class"] == "LitJoint" and joint_config["log_dir"] == str(maml.path.parent.parent)
    assert {k: joint_config[k] for k in ("data_class", "support_samples", "test_episodes", "width", "max_steps")} == {
        k: wanted[k] for k in ("data_class", "support_samples", "test_episodes", "width", "max_steps")
    }
    assert "in no run's folder" in refusal(capsys, f"--checkpoint={last}", "--picture=updates")


def test_the_command_for_another_algorithm_has_the_flags_that_are_not_the_usual_ones():
    flags = ["--data_class=Omniglot", "--episode_classes=20", "--width=8", "--max_steps=7", "--data_dir=my data"]
    config = parse(flags, "").config
    again = same_tasks(config, "LitJoint")
    assert again[2] == "--lit_model_class=LitJoint" and set(flags) - set(again) == set() and len(again) == 8
    joint = parse(again, "").config
    assert [name for name in config if name in joint and config[name] != joint[name]] == ["lit_model_class"]


def test_the_names_of_many_runs_lie_in_the_picture():
    rng = np.random.default_rng(0)
    for number in (1, 3, 25):
        names = [f"MAML, inner_lr={i}, data_dir=/a/long/path/{'photos/' * 9}of/{i}" for i in range(number)]
        results = EpisodeResults(np.arange(6), [0, 1], rng.random((6, 2)), rng.random((6, 2)), of_classes=True)
        figure = draw_steps(dict.fromkeys(names, results), "accuracy", dict.fromkeys(names, 1))
        figure.draw_without_rendering()
        assert len(figure.legends) == (number > 1)
        for legend in figure.legends:
            box, page = legend.get_window_extent(), figure.bbox
            assert box.x0 >= 0 and box.x1 <= page.x1 and box.y0 >= 0
            assert [text.get_text().replace("\n", "")[:5] for text in legend.get_texts()] == ["MAML,"] * number
        assert figure.axes[0].get_window_extent().height > 0.2 * WIDTH * figure.dpi


def test_the_interval_that_is_shaded_is_that_of_the_table(maml_and_joint):
    maml, _ = maml_and_joint
    episodes = maml.episodes()
    for i, row in enumerate(maml.result()["per_step"]):
        assert mean_ci95(episodes.metric[:, i]) == pytest.approx((row["mean"], row["ci95"]), rel=1e-6)
