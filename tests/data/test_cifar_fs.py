"""CIFAR-FS from its archive and from class folders, and each way it can be wrong."""

import hashlib
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from few_shot.data import CifarFS, cifar100
from few_shot.data.cifar_fs import split_classes
from few_shot.data.image_store import ImageStore
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

NAMES = sorted(name for split in SPLITS for name in split_classes(split))
# Images of each class, under the names that class folders give them; the archive has them in two files.
FILES = ["test_01.png", "test_07.png", "train_02.png", "train_03.png", "train_09.png"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(cifar100, "ARCHIVE_URLS", ["http://127.0.0.1:9/archive"])


@pytest.fixture
def images():
    """Random images of each class, uint8 [5, 3, 32, 32], in the store's order."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (len(FILES), 3, 32, 32), dtype=np.uint8) for name in NAMES}


def contents(images):
    """What the official archive holds: flat images, classes mixed; labels are numbers in the order of the names."""
    parts = {"meta": {"fine_label_names": NAMES, "coarse_label_names": ["fish"]}}
    for part, rows in (("train", [3, 4, 2]), ("test", [1, 0])):
        data = np.stack([images[name][rows] for name in NAMES], axis=1).reshape(-1, 3072)
        parts[part] = {
            "data": data,
            "fine_labels": list(range(100)) * (len(data) // 100),
            "coarse_labels": [0] * len(data),
            "filenames": [FILES[row].partition("_")[2] for row in rows for _ in NAMES],
            "batch_label": part,
        }
    return parts


def write_archive(root, parts, monkeypatch, protocol=2):
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "cifar-100-python.tar.gz", "w:gz") as tar:
        for name, content in parts.items():
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    digest = hashlib.md5((root / "cifar-100-python.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(cifar100, "ARCHIVE_MD5", digest)
    return root


def write_class_folders(root, images, classes=split_classes):
    for split in SPLITS:
        for name in classes(split):
            (root / split / name).mkdir(parents=True)
            for file, image in zip(FILES, images[name], strict=True):
                Image.fromarray(image.transpose(1, 2, 0)).save(root / split / name / file)
    return root


def build(data_dir):
    return CifarFS(data_dir=str(data_dir)).build_store()


def assert_holds(folder, images):
    for split in SPLITS:
        store = ImageStore.open(folder, split)
        assert store.class_names == list(split_classes(split))
        for name, start, size in zip(store.class_names, store.class_starts, store.class_sizes, strict=True):
            assert np.array_equal(store.images[start : start + size], images[name])


@pytest.mark.parametrize("folder", ["", "cifar_fs", "cifar100"])
@pytest.mark.parametrize("form", ["class folders", "archive 0", "archive 2", "archive 5"])
def test_every_form_gives_the_same_pixels(tmp_path, images, monkeypatch, form, folder):
    root = tmp_path / "data" / folder
    if form == "class folders":
        write_class_folders(root, images)
    else:
        write_archive(root, contents(images), monkeypatch, protocol=int(form[-1]))
    assert_holds(build(tmp_path / "data"), images)


def test_episodes(tmp_path, images, monkeypatch):
    write_archive(tmp_path, contents(images), monkeypatch)
    data = CifarFS(data_dir=str(tmp_path), query_samples=2, test_query_samples=3, test_episodes=4)
    data.setup()
    assert data.input_shape == (3, 32, 32)
    batch = data.prepare(next(iter(data.test_dataloader())), "test", torch.float32)
    assert batch.support_x.shape == (4, 5, 3, 32, 32) and batch.query_x.shape == (4, 15, 3, 32, 32)
    assert batch.query_x.max() <= 1


def test_some_classes_will_do(tmp_path, images):
    write_class_folders(tmp_path, images, lambda split: split_classes(split)[:6])
    assert ImageStore.open(build(tmp_path), "val").class_names == list(split_classes("val")[:6])


def test_the_split_is_that_of_bertinetto_and_others():
    classes = {split: split_classes(split) for split in SPLITS}
    assert {split: len(c) for split, c in classes.items()} == {"train": 64, "val": 16, "test": 20}
    assert len(set(NAMES)) == 100
    assert {"apple", "train", "wolf"} <= set(classes["train"])
    assert {"beaver", "motorcycle", "tractor"} <= set(classes["val"])
    assert {"baby", "whale", "worm"} <= set(classes["test"])


@pytest.mark.parametrize(("name", "belongs"), [("whale", "its test split"), ("n01532829", "none of its classes")])
def test_a_class_that_is_not_of_its_split_is_refused(tmp_path, images, name, belongs):
    write_class_folders(tmp_path, images | {"n01532829": images["apple"]}, lambda s: split_classes(s)[:5])
    os.rename(tmp_path / "train" / split_classes("train")[0], tmp_path / "train" / name)
    with pytest.raises(BadInput, match=f"Class {name} in .*train is not of CIFAR-FS's train split: .*{belongs}"):
        build(tmp_path)


def test_an_archive_with_another_checksum_is_refused(tmp_path, images, monkeypatch):
    write_archive(tmp_path, contents(images), monkeypatch)
    monkeypatch.setattr(cifar100, "ARCHIVE_MD5", "eb9058c3a382ffc7106e4002c42a8d85")
    with pytest.raises(BadInput, match="expected eb9058c3a382ffc7106e4002c42a8d85"):
        build(tmp_path)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_malicious_pickle_does_not_run(tmp_path, images, monkeypatch):
    bad = contents(images) | {"train": Malicious(str(tmp_path / "harmed"))}
    write_archive(tmp_path / "data", bad, monkeypatch)
    with pytest.raises(BadInput, match="is no pickle of plain data"):
        build(tmp_path / "data")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("damage", ["no meta", "cut images", "no images of a class", "wrong type", "no archive"])
def test_an_archive_of_something_else_is_named(tmp_path, images, monkeypatch, damage):
    parts = contents(images)
    if damage == "no meta":
        del parts["meta"]
    elif damage == "cut images":
        parts["train"]["data"] = parts["train"]["data"][:, :-1]
    elif damage == "no images of a class":
        for part in ("train", "test"):
            parts[part]["fine_labels"] = [max(1, label) for label in parts[part]["fine_labels"]]
    elif damage == "wrong type":
        parts["test"]["data"] = parts["test"]["data"].astype(np.float32)
    write_archive(tmp_path, parts, monkeypatch)
    if damage == "no archive":
        (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"nothing")
        monkeypatch.setattr(cifar100, "ARCHIVE_MD5", hashlib.md5(b"nothing").hexdigest())
    with pytest.raises(BadInput, match=r"cifar-100-python\.tar\.gz (does not hold CIFAR-100|cannot be read)"):
        build(tmp_path)


def test_with_no_images_and_no_network_the_error_says_what_to_put_where(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(BadInput) as error:
        build(tmp_path / "data")
    for part in ("data_dir=", str(tmp_path / "data" / "cifar_fs"), "eb9058c3", "/<class>/", "127.0.0.1"):
        assert part in str(error.value)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_what_is_downloaded_is_used(tmp_path, images, monkeypatch):
    root = write_archive(tmp_path / "server", contents(images), monkeypatch)
    monkeypatch.setattr(cifar100, "ARCHIVE_URLS", [(root / "cifar-100-python.tar.gz").as_uri()])
    (tmp_path / "data").mkdir()
    assert_holds(build(tmp_path / "data"), images)
