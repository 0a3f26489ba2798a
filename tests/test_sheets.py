"""A sheet and a confusion matrix say what the learner said, of the right pictures and the right classes."""

import numpy as np
import pytest
import torch
from helpers import write_random_class_folders
from matplotlib.text import Text

from few_shot import MAML, Sinusoid
from few_shot.confusion import Confusion, count_confusion, draw_confusion
from few_shot.data import MiniImagenet
from few_shot.errors import BadInput
from few_shot.figure_style import house_style
from few_shot.lit_models.base import LitMetaLearner
from few_shot.models import Conv4, SinusoidMLP
from few_shot.sheets import draw_sheet, letter_of

IMAGES, WAYS, QUERIES = 4, 3, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_random_class_folders(tmp_path_factory.mktemp("images"), classes=5, images=IMAGES)
    data = MiniImagenet(str(folder), episode_classes=WAYS, query_samples=QUERIES, test_query_samples=QUERIES)
    data.test_split = "test"
    data.prepare_data()
    data.setup("test")
    return data


class Knows(torch.nn.Module):
    """Says 0 before adaptation, and after it the truth, but of light pictures the next label."""

    dtype, device, test_inner_loop_steps = torch.float32, torch.device("cpu"), 2
    shots, unused = None, {}
    steps_or_own = LitMetaLearner.steps_or_own

    def test_predictions(self, batch, steps):
        assert not self.training and not torch.is_grad_enabled()
        light = batch.query_x.flatten(2).mean(-1) > self.threshold(batch)
        labels = (batch.query_y + light) % WAYS
        known = torch.nn.functional.one_hot(labels, WAYS) * 2.0
        return [known if step else torch.tensor([1.0, 0, 0]).expand_as(known) for step in steps]

    @staticmethod
    def threshold(batch):
        return batch.query_x.flatten(2).mean(-1).median(dim=1, keepdim=True).values


def test_a_sheet_says_what_was_said_and_frames_the_mistakes(data):
    learner = Knows()
    figure = draw_sheet(learner, data, episode=4)
    assert learner.training
    (axis,) = figure.axes
    drawn = data.draw("test", 0, np.array([4]))
    batch = data.prepare(drawn, "test", torch.float32)
    labels = (batch.query_y + (batch.query_x.flatten(2).mean(-1) > Knows.threshold(batch))) % WAYS
    right = (labels == batch.query_y)[0]
    sure, at_first = np.exp([2, 1]) / (np.exp([2, 1]) + 2)
    captions = [text.get_text() for text in axis.texts]
    expected = [
        f"{'' if ok else '✗ '}{letter_of(y)} {100 * sure:.0f} %" for y, ok in zip(labels[0], right, strict=True)
    ]
    assert [c for c in captions if c.endswith("%") and c != f"A {100 * at_first:.0f} %"] == expected
    assert captions.count(f"A {100 * at_first:.0f} %") == WAYS * QUERIES
    assert len(axis.patches) == int((~right).sum()) > 0
    assert captions[0] == f"Test episode 4: {100 * right.double().mean():.0f} % of 6 queries right"
    names = [f"test{row // IMAGES}" for row in drawn.support_x[0].tolist()]
    assert [c for c in captions if c.startswith("test")] == names
    assert len(axis.images) == WAYS * (1 + QUERIES)


def test_confusion_counted_in_a_plain_loop(data):
    found = count_confusion(Knows(), data, episodes=13)
    taken, could = np.zeros((2, 5, 5), dtype=int)
    for episode in range(13):
        drawn = data.draw("test", 0, np.array([episode]))
        batch = data.prepare(drawn, "test", torch.float32)
        light = (batch.query_x.flatten(2).mean(-1) > Knows.threshold(batch))[0]
        ways = [row // IMAGES for row in drawn.support_x[0].tolist()]
        for row, y, is_light in zip(drawn.query_x[0].tolist(), drawn.query_y[0].tolist(), light.tolist(), strict=True):
            taken[row // IMAGES, ways[(y + is_light) % WAYS]] += 1
            for way in ways:
                could[row // IMAGES, way] += 1
    np.testing.assert_array_equal(found.taken, taken)
    np.testing.assert_array_equal(found.could, could)
    assert found.names == [f"test{i}" for i in range(5)]


def test_a_matrix_of_twenty_classes_and_what_is_drawn_of_more():
    rng = np.random.default_rng(0)
    for classes in (20, 50):
        could = np.full((classes, classes), 10)
        taken = rng.integers(0, 10, (classes, classes))
        taken[3, 7] = 10
        names = [f"some/class{i:02}" for i in range(classes)]
        figure = draw_confusion(Confusion(names, taken, could, episodes=5, steps=2))
        if classes == 20:
            (axis,) = figure.axes
            assert [label.get_text() for label in axis.get_yticklabels()] == names
            cells = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in axis.texts}
            assert cells[(3, 7)] == "100" and cells[(4, 4)] == str(10 * taken[4, 4])
        else:
            assert "50 classes are too many" in figure.get_suptitle()
            assert figure.axes[1].texts[0].get_text() == "some/class03 → some/class07: 10 of 10"


def outside(figure):
    """The texts of a figure that do not lie wholly in it."""
    with house_style():
        figure.draw_without_rendering()
    found = []
    for text in figure.findobj(Text):
        box = text.get_window_extent()
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        found += [text.get_text()] if text.get_text() and text.get_visible() and not inside else []
    return found


@pytest.mark.parametrize("queries", [1, 2])
def test_the_heading_of_a_small_sheet_is_not_cut_off(data, queries):
    few = MiniImagenet(data.data_dir, episode_classes=WAYS, query_samples=1, test_query_samples=queries)
    few.test_split = "test"
    few.prepare_data()
    few.setup("test")
    assert outside(draw_sheet(Knows(), few)) == []


@pytest.mark.parametrize("classes", [2, 5, 41])
def test_the_names_of_a_matrix_are_shown_whole_and_as_they_are(classes):
    names = [f"${i}0_$100 bills and coins" for i in range(classes)]
    counts = np.full((classes, classes), 10)
    figure = draw_confusion(Confusion(names, counts, counts, episodes=5, steps=2))
    assert [text for text in outside(figure) if not text.isdigit()] == []  # a tick beyond its axis is not drawn
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any(names[0] in text for text in texts) and not any(text.get_parse_math() for text in figure.findobj(Text))


def test_from_python_a_learner_draws_pictures_and_curves(data):
    learner = MAML(Conv4((3, 84, 84), WAYS, width=2), inner_loop_steps=1)
    assert len(learner.plot(data, episode=1, steps=(0, 1)).axes[0].images) == WAYS * (1 + QUERIES)
    wave = MAML(SinusoidMLP(width=4), loss="mse_loss", metric="mse")
    (axis,) = wave.plot(Sinusoid(support_samples=5)).axes
    assert "after 10 steps" in [line.get_label() for line in axis.lines]
    with pytest.raises(BadInput, match="something else"):
        draw_sheet(wave.lit_model, Sinusoid())
    with pytest.raises(BadInput, match="something else"):
        count_confusion(wave.lit_model, Sinusoid(), 1)
