"""tieredImageNet from its pickles, which are never loaded, from their archive and from class folders."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from few_shot.data import TieredImagenet, tiered_imagenet
from few_shot.data.image_store import ImageStore
from few_shot.data.tiered_imagenet import split_classes
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

NAMES = {"train": ["tabby", "crane", "kite"], "val": ["crane", "maillot", "maillot"], "test": ["loupe", "zebra"]}
# The order of a real file is by class; ours is mixed, so that the labels decide.
LABELS = {"train": [0, 1, 2, 1, 0, 1], "val": [2, 0, 1, 1], "test": [1, 0, 1]}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(tiered_imagenet, "ARCHIVE_URLS", ["http://127.0.0.1:9/archive"])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return {split: rng.integers(0, 256, (len(labels), 84, 84, 3), dtype=np.uint8) for split, labels in LABELS.items()}


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def array(data):
    """As OpenCV encodes it: uint8 ``[n, 1]``."""
    return np.frombuffer(data, np.uint8).reshape(-1, 1).copy()


def write_pickles(root, images, protocol=2, make=array):
    root.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        files = [make(png(image)) for image in images[split]]
        (root / f"{split}_images_png.pkl").write_bytes(pickle.dumps(files, protocol))
        labels = {
            "label_specific": np.array(LABELS[split], np.int32),
            "label_specific_str": NAMES[split],
            "label_general": np.zeros(len(files), np.int32),
            "label_general_str": ["animal"],
        }
        (root / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels, protocol))
    return root


def write_archive(root, images, monkeypatch, mode="w"):
    pickles = write_pickles(root.parent / "pickles", images)
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "tiered-imagenet.tar", mode) as tar:
        tar.add(pickles, arcname="tiered-imagenet")
    digest = hashlib.md5((root / "tiered-imagenet.tar").read_bytes()).hexdigest()
    monkeypatch.setattr(tiered_imagenet, "ARCHIVE_MD5", digest)


def build(data_dir):
    return TieredImagenet(data_dir=str(data_dir)).build_store()


def assert_holds(folder, images):
    """Names that come twice, in a split or in two, are told apart by their number."""
    names = {
        "train": {"crane (train 1)": 1, "kite": 2, "tabby": 0},
        "val": {"crane (val 0)": 0, "maillot (val 1)": 1, "maillot (val 2)": 2},
        "test": {"loupe": 0, "zebra": 1},
    }
    for split in SPLITS:
        store = ImageStore.open(folder, split)
        assert store.class_names == list(names[split])
        for name, start, size in zip(store.class_names, store.class_starts, store.class_sizes, strict=True):
            expected = images[split][np.array(LABELS[split]) == names[split][name]]
            assert np.array_equal(store.images[start : start + size], expected.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("make", [array, bytes])
def test_pickles_of_every_protocol_are_read(tmp_path, images, protocol, make):
    write_pickles(tmp_path, images, protocol, make)
    assert_holds(build(tmp_path), images)


@pytest.mark.parametrize("folder", ["", "tiered-imagenet", "tiered_imagenet"])
def test_the_archive_is_read_in_place(tmp_path, images, monkeypatch, folder):
    write_archive(tmp_path / "data" / folder, images, monkeypatch)
    assert_holds(build(tmp_path / "data"), images)


def test_class_folders_are_read_and_classes_of_other_splits_refused(tmp_path, images):
    for split in SPLITS:
        for i, name in enumerate(split_classes(split)[:2]):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(images[split][i]).save(tmp_path / split / name / f"{name}_1.png")
    folder = build(tmp_path)
    for split in SPLITS:
        store = ImageStore.open(folder, split)
        assert store.class_names == list(split_classes(split)[:2])
        assert np.array_equal(store.images, images[split][:2].transpose(0, 3, 1, 2))
    (tmp_path / "train" / split_classes("train")[0]).rename(tmp_path / "train" / split_classes("test")[5])
    with pytest.raises(BadInput, match="is not of tieredImageNet's train split: it belongs in its test split"):
        build(tmp_path)


def test_the_split_is_that_of_ren_and_others():
    classes = {split: set(split_classes(split)) for split in SPLITS}
    assert {split: len(names) for split, names in classes.items()} == {"train": 351, "val": 97, "test": 160}
    assert len(set.union(*classes.values())) == 608
    assert "n01530575" in classes["train"]  # brambling, a bird
    assert "n02099267" in classes["val"]  # flat-coated retriever
    assert "n07565083" in classes["test"]  # menu


@pytest.mark.parametrize("missing", ["val_labels.pkl", "test_images_png.pkl"])
def test_a_missing_pickle_is_named(tmp_path, images, missing):
    (write_pickles(tmp_path, images) / missing).unlink()
    with pytest.raises(BadInput, match=f"{missing} is missing"):
        build(tmp_path)


def test_pickles_that_are_wrong_are_named(tmp_path, images):
    root = write_pickles(tmp_path, images)
    path = root / "train_images_png.pkl"
    whole = path.read_bytes()
    for content, message in (
        (pickle.dumps([array(png(images["train"][0]))] * 2 + [0]), "holds 1 images, and 6 have labels"),
        (pickle.dumps([1, 2]), "holds no PNG images"),
        (whole[: len(whole) // 2], "is no whole pickle"),
        (b"", "is no whole pickle"),
        (b"nothing", "is no whole pickle|holds no PNG"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=f"train_images_png.pkl {message}"):
            build(tmp_path)
    path.write_bytes(whole.replace(b"IHDR", b"XXXX", 1))
    with pytest.raises(BadInput, match=r"image 0 of .*train_images_png\.pkl cannot be decoded"):
        build(tmp_path)
    path.write_bytes(whole)
    (root / "val_labels.pkl").write_bytes(pickle.dumps({"label_specific": np.array([0, 5])}))
    with pytest.raises(BadInput, match=r"val_labels\.pkl does not hold label_specific"):
        build(tmp_path)


def test_a_malicious_pickle_does_not_run(tmp_path, images):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    root = write_pickles(tmp_path / "data", images)
    files = [array(png(image)) for image in images["train"]]
    (root / "train_images_png.pkl").write_bytes(pickle.dumps([Malicious(), *files]))
    assert_holds(build(tmp_path / "data"), images)  # nothing is ever called: what is no PNG file is passed over
    (root / "val_labels.pkl").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(BadInput, match="is no pickle of plain data"):
        build(tmp_path / "data")
    assert not (tmp_path / "harmed").exists()


def test_archives_that_are_wrong_are_named(tmp_path, images, monkeypatch):
    write_archive(tmp_path / "data", images, monkeypatch, mode="w:gz")
    with pytest.raises(BadInput, match=r"tiered-imagenet\.tar cannot be read"):
        build(tmp_path / "data")
    monkeypatch.setattr(tiered_imagenet, "ARCHIVE_MD5", "e07e811b9f29362d159a9edd0d838c62")
    with pytest.raises(BadInput, match="expected e07e811b9f29362d159a9edd0d838c62"):
        build(tmp_path / "data")


def test_with_no_images_and_no_network_the_error_says_what_to_put_where(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(BadInput) as error:
        build(tmp_path / "data")
    for part in ("data_dir=", str(tmp_path / "data" / "tiered_imagenet"), "e07e811b", "terms of use", "127.0.0.1"):
        assert part in str(error.value)


def test_what_is_downloaded_is_used(tmp_path, images, monkeypatch):
    write_archive(tmp_path / "server", images, monkeypatch)
    monkeypatch.setattr(tiered_imagenet, "ARCHIVE_URLS", [(tmp_path / "server" / "tiered-imagenet.tar").as_uri()])
    (tmp_path / "data").mkdir()
    assert_holds(build(tmp_path / "data"), images)


MEMORY = """
import pickle, sys, threading, time
from few_shot.data import TieredImagenet

def anonymous():
    line = next(x for x in open("/proc/self/status") if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024  # MiB

def watch():
    global most
    while True:
        most = max(most, anonymous())
        time.sleep(0.003)

start = most = anonymous()
threading.Thread(target=watch, daemon=True).start()
TieredImagenet(data_dir=sys.argv[1]).build_store()
reading = most - start
pickle.load(open(sys.argv[1] + "/train_images_png.pkl", "rb"))
time.sleep(0.1)
print(reading, most - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux tells it")
def test_a_pickle_larger_than_the_memory_is_read_in_pieces(tmp_path):
    """40 MiB of arrays; loading them would take at least as much."""
    noise = png(np.random.default_rng(0).integers(0, 256, (84, 84, 3), dtype=np.uint8))
    small = png(np.zeros((84, 84, 3), np.uint8))
    for split in SPLITS:
        number, one = (2000, noise) if split == "train" else (4, small)
        files = [np.frombuffer(one, np.uint8).copy() for _ in range(number)]
        (tmp_path / f"{split}_images_png.pkl").write_bytes(pickle.dumps(files, 2))
        labels = {"label_specific": np.arange(number) % 4, "label_specific_str": [f"{split}{i}" for i in range(4)]}
        (tmp_path / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels, 2))
    assert (tmp_path / "train_images_png.pkl").stat().st_size > 40 * 2**20
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    reading, loading = map(float, run.stdout.split())
    assert reading < 20 and loading > 40
