"""The store: what a build leaves behind however it ends, and episodes drawn from it."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from few_shot.data import image_store
from few_shot.data.base import ImageEpisodes
from few_shot.data.image_store import ImageStore, Source, ensure_store
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

SHAPE = (1, 2, 3)
SIZES = {"a": 20, "b": 18, "c": 19, "d": 18, "e": 25}


def picture(split, name, i):
    """An image that tells where it comes from."""
    return np.array([[[SPLITS.index(split), ord(name[-1]), i], [0, 0, 0]]], dtype=np.uint8)


def make_source(fingerprint=0, read=None):
    return Source(
        form="test",
        fingerprint={"files": fingerprint},
        classes=lambda split: {f"{split}_{c}": n for c, n in SIZES.items()},
        read=read or (lambda split, name: (picture(split, name, i) for i in range(SIZES[name[-1]]))),
    )


def ensure(data_dir, source, download=None):
    return ensure_store(data_dir, "test", SHAPE, lambda: source, download)


def assert_complete(folder):
    for split in SPLITS:
        store = ImageStore.open(folder, split)
        assert store.class_names == [f"{split}_{c}" for c in SIZES]
        assert store.class_sizes.tolist() == list(SIZES.values())
        for name, start, size in zip(store.class_names, store.class_starts, store.class_sizes, strict=True):
            assert (store.images[start : start + size] == [picture(split, name, i) for i in range(size)]).all()


def refuse(*args):
    raise AssertionError("this must not be called")


def test_a_store_is_built_once_and_holds_the_images(tmp_path):
    folder = ensure(tmp_path, make_source())
    assert folder == tmp_path / ".few_shot" / "test"
    assert_complete(folder)
    assert ensure(tmp_path, make_source(read=refuse)) == folder
    assert {p.name for p in folder.parent.iterdir()} == {"test", ".test.lock"}


def test_rows_are_gathered(tmp_path):
    store = ImageStore.open(ensure(tmp_path, make_source()), "val")
    rows = np.array([[0, 20, 99], [1, 1, 1]])
    gathered = store.images[rows]
    assert gathered.shape == (2, 3, *SHAPE)
    assert (gathered[0, 1] == picture("val", "val_b", 0)).all()


def test_the_digest_tells_other_pictures_and_another_order(tmp_path):
    def digest(name, images):
        source = make_source(read=lambda split, c: images([picture(split, c, i) for i in range(SIZES[c[-1]])]))
        return ImageStore.open(ensure(tmp_path / name, source), "test").digest()

    as_they_are = digest("a", lambda images: images)
    assert digest("b", lambda images: images) == as_they_are
    assert digest("c", lambda images: images[::-1]) != as_they_are
    assert digest("d", lambda images: images[:-1]) != as_they_are
    assert digest("e", lambda images: [255 - image for image in images]) != as_they_are


def test_a_pickled_store_reopens_its_file(tmp_path):
    store = ImageStore.open(ensure(tmp_path, make_source()), "train", classes=3)
    pickled = pickle.dumps(store)
    again = pickle.loads(pickled)
    assert len(pickled) < 1000 and isinstance(again.images, np.memmap)
    assert again.class_names == ["train_a", "train_b", "train_c"]


def test_a_changed_source_is_built_again_and_a_lost_one_is_believed(tmp_path):
    folder = ensure(tmp_path, make_source(1))
    changed = make_source(2, read=lambda split, name: [np.full(SHAPE, 7, np.uint8)] * SIZES[name[-1]])
    assert ensure(tmp_path, changed) == folder
    assert (ImageStore.open(folder, "train").images[:] == 7).all()
    assert ensure(tmp_path, None, download=refuse) == folder
    assert {p.name for p in folder.parent.iterdir()} == {"test", ".test.lock"}


def test_what_is_missing_is_downloaded(tmp_path):
    found = []
    folder = ensure_store(
        tmp_path, "test", SHAPE, lambda: found[0] if found else None, lambda: found.append(make_source())
    )
    assert_complete(folder)


def test_a_folder_marked_read_only_is_left_alone_by_the_superuser_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    data_dir.chmod(0o555)
    assert ensure(data_dir, make_source()).parent == tmp_path / "cache" / "few_shot"
    assert list(data_dir.iterdir()) == []


def test_a_read_only_folder_is_served_from_the_cache(tmp_path, monkeypatch):
    data_dir, other, cache = (tmp_path / name for name in ("data", "other", "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in (data_dir, other) and real(path, mode))
    data_dir.mkdir()
    other.mkdir()
    folder = ensure(data_dir, make_source())
    assert folder.parent == cache / "few_shot" and folder.name.startswith("test-")
    assert_complete(folder)
    assert list(data_dir.iterdir()) == []
    assert ensure(data_dir, make_source(read=refuse)) == folder
    assert ensure(other, make_source()) != folder


@pytest.mark.parametrize("damage", ["no manifest", "half a manifest", "short", "a split less", "other version"])
def test_a_damaged_store_is_never_believed(tmp_path, damage):
    folder = ensure(tmp_path, make_source())
    manifest, images = folder / "manifest.json", folder / "train.npy"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "half a manifest":
        manifest.write_text(manifest.read_text()[:100])
    elif damage == "short":
        os.truncate(images, 300)
    elif damage == "a split less":
        images.unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 0}))
    with pytest.raises(BadInput, match=r"\.few_shot/test holds no usable train images"):
        ImageStore.open(folder, "train")
    ensure(tmp_path, make_source())
    assert_complete(folder)


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def read(split, name):
        if name == "val_c":
            raise BadInput("val_c/3.png cannot be decoded")
        return make_source().read(split, name)

    with pytest.raises(BadInput, match="val_c"):
        ensure(tmp_path, make_source(read=read))
    assert [p.name for p in (tmp_path / ".few_shot").iterdir()] == [".test.lock"]


def test_a_failed_rebuild_keeps_the_old_store(tmp_path):
    folder = ensure(tmp_path, make_source(1))
    with pytest.raises(AssertionError):
        ensure(tmp_path, make_source(2, read=refuse))
    assert_complete(folder)


def test_a_class_in_two_splits_is_refused(tmp_path):
    source = Source("test", {}, lambda split: {"same": 1}, lambda split, name: [np.zeros(SHAPE, np.uint8)])
    with pytest.raises(BadInput, match="same of test is in the train and the val split"):
        ensure(tmp_path, source)


def test_a_full_disk_is_said_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(image_store.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(BadInput, match=r"train images of test take 600 bytes, but .* has 10 left"):
        ensure(tmp_path, make_source())


def test_nowhere_to_write_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BadInput, match="cannot be written"):
        ensure(tmp_path, make_source())


SLOW_BUILD = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_image_store import *

def read(split, name):
    print(name + "\\n", end="", flush=True)  # in one piece: several threads read
    time.sleep(float(sys.argv[2]))
    return make_source().read(split, name)

assert_complete(ensure(Path(sys.argv[1]), make_source(read=read)))
"""


def start_build(data_dir, delay):
    command = [sys.executable, "-c", SLOW_BUILD, str(data_dir), str(delay)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)


def test_a_killed_build_is_not_believed_and_is_cleaned_up(tmp_path):
    with start_build(tmp_path, 60) as build:
        build.stdout.readline()
        build.send_signal(signal.SIGKILL)
    leftovers = {p.name for p in (tmp_path / ".few_shot").iterdir()}
    assert "test" not in leftovers and any("building" in name for name in leftovers)
    assert_complete(ensure(tmp_path, make_source()))
    assert {p.name for p in (tmp_path / ".few_shot").iterdir()} == {"test", ".test.lock"}


def test_of_two_builders_one_builds_and_both_succeed(tmp_path):
    builds = [start_build(tmp_path, 0.1) for _ in range(2)]
    outputs = [build.communicate(timeout=60)[0].split() for build in builds]
    assert [build.returncode for build in builds] == [0, 0]
    assert sorted(map(len, outputs)) == [0, 3 * len(SIZES)]


def test_two_builders_without_file_locks_both_succeed(tmp_path, monkeypatch):
    def no_lock(path):
        raise NotImplementedError

    monkeypatch.setattr(image_store, "FileLock", no_lock)
    meet = threading.Barrier(2, timeout=30)

    def read(split, name):
        if name == "test_e":
            meet.wait()  # both are about to finish
        return make_source().read(split, name)

    results = []
    threads = [threading.Thread(target=lambda: results.append(ensure(tmp_path, make_source(read=read)))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert_complete(results[0])


class Tiny(ImageEpisodes):
    input_shape = SHAPE

    def build_store(self):
        return ensure(self.data_dir, make_source())


def make_tiny(tmp_path, **kwargs):
    data = Tiny(data_dir=str(tmp_path), **{"episode_classes": 3, **kwargs})
    data.prepare_data()
    data.setup()
    return data


def images(data, split, index):
    """Support and query images of some episodes, uint8, and the episodes as they are drawn."""
    episodes, gather = data.draw(split, 0, index), data.stores[split].gather
    return gather(episodes.support_x), gather(episodes.query_x), episodes


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_episode_holds_the_images_of_its_labels(tmp_path):
    data = make_tiny(tmp_path, support_samples=2, test_query_samples=4)
    support_x, query_x, episodes = images(data, "test", np.arange(50))
    assert support_x.shape == (50, 6, *SHAPE) and query_x.shape == (50, 12, *SHAPE)
    assert support_x.dtype == torch.uint8
    assert (episodes.support_y == torch.tensor([0, 0, 1, 1, 2, 2])).all()
    classes = support_x[:, ::2, 0, 0, 1]  # picture() writes its class there, and its number beside it
    for x, y in ((support_x, episodes.support_y), (query_x, episodes.query_y)):
        assert (x[:, :, 0, 0, 0] == SPLITS.index("test")).all()
        assert torch.equal(x[:, :, 0, 0, 1], classes.gather(1, y))
    support, query = (x[:, :, 0, 0, 1:].tolist() for x in (support_x, query_x))
    for s, q in zip(support, query, strict=True):
        assert len({tuple(x) for x in s + q}) == 18


def test_images_become_numbers_from_0_to_1(tmp_path):
    data = make_tiny(tmp_path)
    support_x, query_x, episodes = images(data, "test", np.arange(5))
    for dtype in (torch.float32, torch.float64):
        batch = data.prepare(episodes, "test", dtype)
        assert torch.equal(batch.support_x, support_x.to(dtype) / 255)
        assert torch.equal(batch.query_x, query_x.to(dtype) / 255)


@pytest.mark.parametrize(
    ("state", "augmented"), [("training", True), ("validating", False), ("testing", False), ("on train", False)]
)
def test_episodes_are_augmented_in_training_alone(state, augmented, tmp_path):
    """Not in a test on the training split either."""
    batches = []
    for data in (make_tiny(tmp_path, augment=True), make_tiny(tmp_path)):
        data.trainer = SimpleNamespace(
            training=state == "training",
            testing=state in ("testing", "on train"),
            predicting=False,
            lightning_module=torch.nn.Linear(1, 1),
        )
        data.test_split = "train" if state == "on train" else "test"
        split = {"training": "train", "validating": "val"}.get(state, data.test_split)
        batches.append(data.on_after_batch_transfer(data.draw(split, 0, np.arange(3))))
    assert same(*batches) == (not augmented)
    assert all(batch.query_x.max() <= 1 for batch in batches)


def test_a_test_on_the_training_split_has_the_tests_ways_and_queries(tmp_path):
    data = make_tiny(tmp_path, train_episode_classes=5, query_samples=1, test_query_samples=4)
    for test_split, ways, queries in (("test", 5, 1), ("train", 3, 4)):
        data.test_split = test_split
        episodes = data.draw("train", 0, np.arange(2))
        assert (episodes.support_y.shape, episodes.query_y.shape) == ((2, ways), (2, ways * queries))


def test_train_classes_are_the_first_and_of_training_alone(tmp_path):
    data = make_tiny(tmp_path, train_classes=4)
    seen = {s: set(images(data, s, np.arange(50))[1][..., 0, 0, 1].flatten().tolist()) for s in ("train", "test")}
    assert {split: {chr(c) for c in classes} for split, classes in seen.items()} == {
        "train": set("abcd"),
        "test": set("abcde"),
    }
    again = pickle.loads(pickle.dumps(data.train_dataloader().dataset))
    assert same(again[5], data.train_dataloader().dataset[5])


def test_a_batch_is_the_same_drawn_alone_or_with_those_after_it(tmp_path):
    data = make_tiny(tmp_path, batch_size=3)
    batches = data.train_dataloader().dataset
    for i in (0, 1, 15, 16, 50, 2):
        assert same(batches[i], data.draw("train", data.seed, 3 * i + np.arange(3)))


def test_any_number_of_workers_draws_the_same_episodes(tmp_path):
    def batches(num_workers):
        data = make_tiny(tmp_path, num_workers=num_workers, test_episodes=10)
        train = [batch for batch, _ in zip(data.train_dataloader(), range(6), strict=False)]
        return [*train, *data.test_dataloader()]

    alone, two = batches(0), batches(2)
    assert len(alone) == len(two) == 9
    assert all(same(a, b) for a, b in zip(alone, two, strict=True))


def test_a_spawned_worker_can_unpickle_what_it_draws_from(tmp_path):
    data = make_tiny(tmp_path)
    data.trainer = type(
        "Trainer", (), {"global_rank": 0, "world_size": 1, "global_step": 0, "lock": threading.Lock()}
    )()
    dataset = data.train_dataloader().dataset
    again = pickle.loads(pickle.dumps(dataset))
    assert same(again[5], dataset[5])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"episode_classes": 6}, "episode_classes=6 is more than the 5 classes of the train split"),
        ({"train_classes": 6}, "train_classes=6 must be at least 1 and at most the 5 there are"),
        ({"train_classes": 0}, "train_classes=0 is too small"),
        ({"train_classes": -2}, "train_classes=-2 is too small"),
        ({"train_classes": 2}, "episode_classes=3 is more than the 2 classes of the train split"),
        ({"train_episode_classes": 9}, "train_episode_classes=9 is more than the 5 classes"),
        (
            {"support_samples": 4},
            "support_samples=4 and test_query_samples=15 together .* 18 images of class val_b",
        ),
        ({"support_samples": 10}, "support_samples=10 and query_samples=10 together .* train_b in the train split"),
    ],
)
def test_episodes_larger_than_the_data_are_refused(tmp_path, kwargs, message):
    with pytest.raises(BadInput, match=message):
        make_tiny(tmp_path, **kwargs)


def test_what_was_refused_once_is_refused_again(tmp_path):
    data = Tiny(data_dir=str(tmp_path), episode_classes=3, test_query_samples=50)
    data.prepare_data()
    for _ in range(2):
        with pytest.raises(BadInput, match="test_query_samples=50 together are more"):
            data.setup()
    data = make_tiny(tmp_path, query_samples=2)
    data.test_query_samples = 50
    data.test_split = "train"
    with pytest.raises(BadInput, match="test_query_samples=50 together are more"):
        data.setup("test")


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import torch
from few_shot.data.base import ImageEpisodes
from few_shot.data.image_store import Source, ensure_store

def anonymous():
    line = next(x for x in open("/proc/self/status") if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024  # MiB

shape, images = (3, 84, 84), 8000  # 161 MiB a split
start, most = anonymous(), 0.0

def read(split, name):
    global most
    for i in range(images // 20):
        yield np.full(shape, i % 256, np.uint8)
    most = max(most, anonymous())

class Large(ImageEpisodes):
    def build_store(self):
        def classes(split):
            return {f"{split}{i}": images // 20 for i in range(20)}
        source = Source("generated", {}, classes, read)
        return ensure_store(self.data_dir, "large", shape, lambda: source, None)

data = Large(data_dir=sys.argv[1], query_samples=15)
data.prepare_data()
built = most - start
data.setup()
for i in range(500):  # one episode at a time: 6.5 MiB, of which a few are alive at once
    data.prepare(data.draw("train", 0, np.arange(i, i + 1)), "train", torch.float32)
print(built, anonymous() - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux tells it")
def test_building_and_drawing_hold_no_copy_of_the_images(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    building, drawing = map(float, run.stdout.split())
    assert building < 100 and drawing < 100  # one split alone has 161 MiB
