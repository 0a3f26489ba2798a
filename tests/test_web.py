"""The page of web/ in headless Chromium: what it shows is what PyTorch computes."""

import functools
import json
import os
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from few_shot import ProtoNet, load
from few_shot.data.pictures import read_pictures
from few_shot.models import Conv4

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
RESULTS = ROOT / "benchmarks" / "results"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
    pytest.mark.skipif(shutil.which("node") is None, reason="needs Node"),
    pytest.mark.skipif(not (WEB / "dist" / "models").is_dir(), reason="needs the built page (make web-build)"),
]

THEMES = ("phone-light", "phone-dark", "desk-light", "desk-dark")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    """The page, in a folder of a static server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=WEB))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/dist/"
    server.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Coloured scribbles of several sizes: two of class A, one of class B, and one in question."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for i, size in enumerate([(300, 200), (61, 100), (28, 28), (11, 19)]):
        image = Image.new("RGB", size, tuple(rng.integers(150, 255, 3).tolist()))
        for _ in range(4):
            ends = [tuple(rng.integers(0, size).tolist()) for _ in range(2)]
            ImageDraw.Draw(image).line(ends, tuple(rng.integers(0, 120, 3).tolist()), width=max(2, size[0] // 20))
        paths.append(folder / f"{i}.png")
        image.save(paths[-1])
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A model of coloured pictures, and its exported folder."""
    folder = tmp_path_factory.mktemp("own") / "exported"
    torch.manual_seed(0)
    learner = ProtoNet(Conv4((3, 20, 16), 5, width=4))
    learner.export(folder)
    return learner, folder


@pytest.fixture(scope="module")
def seen(address, pictures, own):
    """What web/test/drive.mjs saw."""
    task = {
        "address": address,
        "chromium": CHROMIUM,
        "models": str(WEB / "dist" / "models"),
        "own": str(own[1]),
        "pictures": [pictures[:2], pictures[2:3]],
        "question": pictures[3],
        "screenshots": os.environ.get("SCREENSHOTS"),  # a folder, for who wants to look
    }
    command = ["node", str(WEB / "test" / "drive.mjs"), json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("state", ["fresh", "dragged", "nudged", "added", "removed", "slid"])
def test_a_sine_bends_as_in_pytorch(seen, state):
    shown = seen["sine"][state]
    _, x, y, learned, _ = map(np.array, zip(*shown["points"], strict=True))
    learner = load(RESULTS / "sinusoid_10shot")
    learner.lit_model.inner_lr = shown["rate"]
    for step, error, _ in shown["errors"]:
        predicted = learner.adapt(x, y, steps=int(step)).predict(x)
        assert error == pytest.approx(np.square(predicted - y).mean(), abs=1e-3)
        if int(step) == shown["steps"]:
            np.testing.assert_allclose(learned, predicted, atol=1e-3)


def test_points_move_by_mouse_and_keyboard(seen):
    points = {name: [tuple(p[1:3]) for p in state["points"]] for name, state in seen["sine"].items()}
    fresh, dragged, nudged, added, removed = (points[n] for n in ("fresh", "dragged", "nudged", "added", "removed"))
    assert dragged[1:] == fresh[1:] and dragged[0][0] < fresh[0][0] and dragged[0][1] < fresh[0][1]
    assert nudged[1] == pytest.approx((dragged[1][0] - 1, dragged[1][1] + 0.2)) and nudged[2:] == dragged[2:]
    assert added[:-1] == nudged and len(added) == len(nudged) + 1
    assert removed == added[:2] + added[3:]
    assert seen["sine"]["removed"]["focus"] == "Point 3"
    assert (seen["sine"]["slid"]["steps"], seen["sine"]["slid"]["rate"]) == (3, pytest.approx(0.012))


def test_the_learned_start_bends_and_the_random_one_hardly(seen):
    learned, random = seen["sine"]["fresh"]["errors"][-1][1:]
    assert learned < 0.1 < 1 < random
    assert f"{learned:.2f}" in seen["sine"]["fresh"]["says"] and f"{random:.2f}" in seen["sine"]["fresh"]["says"]


def test_a_frame_of_a_drag_takes_less_than_16_ms(seen):
    assert seen["frame"]["curves"] > 60  # of 120: the curve was drawn anew in most frames
    assert seen["frame"]["work"] < 16


def pixels(picture):
    """uint8 ``[3, H, W]``."""
    return np.array(picture["rgb"], np.uint8).reshape(picture["height"], picture["width"], 3).transpose(2, 0, 1)


def task(shown, channels=3):
    """What the page shows of a task: support samples, their labels, and the sample in question."""
    of_classes = [[pixels(p)[:channels] for p in of_class] for of_class in shown["classes"]]
    x = np.stack([p for of_class in of_classes for p in of_class])
    labels = [label for label, of_class in enumerate(of_classes) for _ in of_class]
    query = pixels(shown["asked"][0])[None, :channels]
    return torch.from_numpy(x).float() / 255, labels, torch.from_numpy(query).float() / 255


@pytest.mark.parametrize("state", ["drawn", "two", "three", "samples", "scans"])
def test_drawings_are_told_apart_as_in_pytorch(seen, state):
    shown = seen["scans"] if state == "scans" else seen["draw"][state]
    x, labels, query = task(shown, channels=1)
    learner = load(RESULTS / "omniglot_5way_1shot_15query")
    for column, steps in ((1, 0), (2, learner.test_inner_loop_steps)):
        expected = learner.adapt(x, labels, steps=steps).predict_proba(query)[0]
        np.testing.assert_allclose([row[column] for row in shown["probabilities"]], expected, atol=1e-3)


def test_it_names_what_was_drawn(seen):
    examples = {name: [len(c) for c in state["classes"]] for name, state in seen["draw"].items()}
    assert examples == {
        "empty": [0] * 5,
        "drawn": [1] * 5,
        "two": [1, 1, 2, 1, 1],
        "three": [1, 1, 2],
        "samples": [1] * 3,
    }
    assert "needs" in seen["draw"]["empty"]["says"] and not seen["draw"]["empty"]["probabilities"]
    for name in ("drawn", "two", "three"):
        assert seen["draw"][name]["says"].startswith("It is C:")  # the ring, drawn smaller and elsewhere
    assert seen["draw"]["samples"]["says"].startswith("It is A:")


def test_a_drawing_looks_as_one_of_omniglot(seen):
    for drawing in (p for of_class in seen["draw"]["drawn"]["classes"] for p in of_class):
        ink = pixels(drawing)[0] > 0
        rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
        assert np.isin(pixels(drawing), (0, 255)).all()
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (18, 19)  # 69 of 105 pixels
        for along in (rows, columns):
            assert abs(along[0] + along[-1] - 27) <= 1  # centred
        assert 25 <= ink.sum() <= 100  # nine in ten of Omniglot's


def test_pictures_are_read_as_in_training(seen, pictures, own):
    learner = load(RESULTS / "omniglot_5way_1shot_15query")
    scans = [p for of_class in seen["scans"]["classes"] for p in of_class] + seen["scans"]["asked"]
    for shown, path in zip(scans, pictures, strict=True):
        np.testing.assert_array_equal(pixels(shown)[:1], read_pictures(path, learner.inputs.how)[0])
    colours = [p for of_class in seen["own"]["classes"] for p in of_class] + seen["own"]["asked"]
    for shown, path in zip(colours, pictures, strict=True):
        assert np.abs(pixels(shown).astype(int) - read_pictures(path, own[0].inputs.how)[0]).max() <= 1


def test_a_model_of_your_own_answers(seen, own):
    says = ["Your SinusoidMLP now bends in the first part.", "Your Conv4 now answers in the second part."]
    assert seen["dropped"] == [{"problem": "", "says": sentence} for sentence in says]
    x, labels, query = task(seen["own"])
    expected = own[0].adapt(x, labels).predict_proba(query)[0]
    np.testing.assert_allclose([row[2] for row in seen["own"]["probabilities"]], expected, atol=1e-3)


def test_what_is_wrong_is_a_sentence(seen):
    for problem, sentence in seen["problems"].items():
        assert sentence.endswith("."), problem
        assert "Something failed" not in sentence, problem
        assert problem.split()[-1] in sentence


def test_nothing_is_asked_of_another_host(seen, address):
    assert all(request.startswith(address) for request in seen["requests"])
    assert seen["errors"] == []


@pytest.mark.parametrize("theme", THEMES)
def test_it_is_accessible_and_fits(seen, theme):
    look = seen["looks"][theme]
    assert look["violations"] == []
    assert look["width"] <= (360 if theme.startswith("phone") else 1280)
