"""mini-ImageNet in each of its forms, and each way it can be wrong."""

import codecs
import csv
import hashlib
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from few_shot.data import mini_imagenet, safe_pickle
from few_shot.data.image_store import ImageStore
from few_shot.data.mini_imagenet import MiniImagenet, split_classes
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(mini_imagenet, "ARCHIVE_URLS", ["http://127.0.0.1:9/archive"])
    monkeypatch.setattr(mini_imagenet, "PICKLE_URLS", ["http://127.0.0.1:9/{}"])


def build(data_dir):
    return MiniImagenet(data_dir=str(data_dir)).build_store()


def write_csv_files(root, images):
    (root / "images").mkdir(parents=True)
    for split, classes in images.items():
        with open(root / f"{split}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["filename", "label"])
            for name, pictures in reversed(classes.items()):
                for i, picture in enumerate(pictures):
                    Image.fromarray(picture).save(root / "images" / f"{name}{i}.png")
                    table.writerow([f"{name}{i}.png", name])
    return root


def write_pickles(root, images, protocol=2, validation="val"):
    root.mkdir(parents=True, exist_ok=True)
    for split, classes in images.items():
        rows, start = {}, 0
        for name, pictures in reversed(classes.items()):
            rows[name] = list(range(start, start + len(pictures)))
            start += len(pictures)
        data = {"image_data": np.concatenate(list(reversed(classes.values()))), "class_dict": rows}
        path = root / f"mini-imagenet-cache-{validation if split == 'val' else split}.pkl"
        path.write_bytes(pickle.dumps(data, protocol))
    return root


def write_archive(root, images, monkeypatch):
    pickles = write_pickles(root.parent / "pickles", images)
    root.mkdir(parents=True)
    with tarfile.open(root / "mini-imagenet.tar.gz", "w:gz") as tar:
        tar.add(pickles, arcname=".")
    digest = hashlib.md5((root / "mini-imagenet.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(mini_imagenet, "ARCHIVE_MD5", digest)
    return root


def assert_holds(folder, images):
    for split, classes in images.items():
        store = ImageStore.open(folder, split)
        assert store.class_names == sorted(classes)
        for name, start, size in zip(store.class_names, store.class_starts, store.class_sizes, strict=True):
            assert np.array_equal(store.images[start : start + size], classes[name].transpose(0, 3, 1, 2))


FORMS = ["class folders", "csv", "archive", *(f"pickles {p}" for p in (0, 1, 2, 3, 4, 5))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("folder", ["", "mini_imagenet"])
def test_every_form_gives_the_same_pixels(tmp_path, images, write_class_folders, monkeypatch, form, folder):
    root = tmp_path / "data" / folder
    if form == "class folders":
        write_class_folders(root)
    elif form == "csv":
        write_csv_files(root, images)
    elif form == "archive":
        write_archive(root, images, monkeypatch)
    else:
        write_pickles(root, images, protocol=int(form[-1]))
    assert_holds(build(tmp_path / "data"), images)


@pytest.mark.parametrize("folder", ["mini-imagenet", "miniimagenet", "MiniImagenet", "miniImageNet"])
def test_the_usual_folders_are_looked_into(tmp_path, images, write_class_folders, folder):
    write_class_folders(tmp_path / folder)
    assert_holds(build(tmp_path), images)


def test_a_folder_named_for_it_goes_before_the_one_that_data_sets_share(tmp_path, images, write_class_folders):
    write_csv_files(tmp_path / "mini_imagenet", {s: {f"mini_{n}": x for n, x in c.items()} for s, c in images.items()})
    write_class_folders(tmp_path)
    assert all(name.startswith("mini_") for name in ImageStore.open(build(tmp_path), "train").class_names)


def test_validation_is_another_name_for_val(tmp_path, images, write_class_folders):
    write_class_folders(tmp_path / "a")
    (tmp_path / "a" / "val").rename(tmp_path / "a" / "validation")
    assert_holds(build(tmp_path / "a"), images)
    assert_holds(build(write_pickles(tmp_path / "b", images, validation="validation")), images)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings: opcode BINSTRING, without a codec."""

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(data)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_bytes}


def test_a_pickle_of_python_2_is_read(tmp_path, images):
    for path in write_pickles(tmp_path, images).glob("*.pkl"):
        data = pickle.loads(path.read_bytes())
        with open(path, "wb") as file:
            Python2Pickler(file, protocol=2).dump(data)
        assert b"_codecs" not in path.read_bytes()
    assert_holds(build(tmp_path), images)


def test_forms_are_taken_in_their_documented_order(tmp_path, images, write_class_folders):
    other = {split: {f"other_{n}": x for n, x in classes.items()} for split, classes in images.items()}
    write_pickles(tmp_path, other)
    assert_holds(build(tmp_path), other)
    write_csv_files(tmp_path, images)
    assert_holds(build(tmp_path), images)
    write_class_folders(tmp_path)
    shutil.rmtree(tmp_path / "images")
    assert_holds(build(tmp_path), images)


def test_images_that_are_gone_are_not_missed(tmp_path, images, write_class_folders):
    folder = build(write_class_folders(tmp_path))
    for split in SPLITS:
        shutil.rmtree(tmp_path / split)
    assert build(tmp_path) == folder
    assert_holds(folder, images)


def test_a_class_that_moved_to_another_split_is_noticed(tmp_path, write_class_folders):
    """A folder that is renamed keeps its date and its files'."""
    build(write_class_folders(tmp_path))
    (tmp_path / "train" / "train_a").rename(tmp_path / "test" / "train_a")
    assert "train_a" in ImageStore.open(build(tmp_path), "test").class_names


@pytest.mark.parametrize("change", ["replaced", "added", "renamed"])
def test_changed_images_are_read_again(tmp_path, write_class_folders, change):
    folder = build(write_class_folders(tmp_path))
    first = tmp_path / "train" / "train_a" / "0.png"
    black = Image.new("RGB", (84, 84))
    if change == "replaced":
        black.save(first)
    elif change == "added":
        black.save(first.with_name("00.png"))
    else:
        first.rename(first.with_name("9.png"))
    before = ImageStore.open(folder, "train").images[:4].copy()
    build(tmp_path)
    store = ImageStore.open(folder, "train")
    assert store.class_sizes[0] == (5 if change == "added" else 4)
    assert not np.array_equal(store.images[:4], before)


@pytest.mark.parametrize("change", ["names of images", "labels in a table"])
def test_pictures_that_changed_places_are_read_again(tmp_path, images, change):
    """By names alone, and where one file bears a date that is yet to come, as after an unzip in another time zone."""
    root = write_csv_files(tmp_path / "mini", images)
    files = [root / "images" / f"{name}0.png" for name in ("train_a", "train_b")]
    tomorrow = files[0].stat().st_mtime_ns + 10**14
    for file in files:
        os.utime(file, ns=(tomorrow, tomorrow))
    before = ImageStore.open(build(root), "train").images[:].copy()
    if change == "names of images":
        files[0].rename(root / "kept"), files[1].rename(files[0]), (root / "kept").rename(files[1])
    else:
        table = root / "train.csv"
        text = (
            table.read_text().replace("_a0.png", "_x0.png").replace("_b0.png", "_a0.png").replace("_x0.png", "_b0.png")
        )
        table.write_text(text)
    after = ImageStore.open(build(root), "train").images[:]
    assert before.shape == after.shape and not np.array_equal(before, after)


def test_images_of_any_size_and_kind_become_84_by_84_rgb(tmp_path, write_class_folders):
    write_class_folders(tmp_path)
    (tmp_path / "train" / "train_a" / "notes.txt").touch()
    (tmp_path / "train" / ".hidden").mkdir()
    large = Image.effect_noise((100, 60), 80)
    large.save(tmp_path / "train" / "train_a" / "0.JPEG", quality=95)
    images = ImageStore.open(build(tmp_path), "train").images
    assert images.shape == (10, 3, 84, 84)
    with Image.open(tmp_path / "train" / "train_a" / "0.JPEG") as decoded:
        resized = np.asarray(decoded.convert("RGB").resize((84, 84), Image.Resampling.LANCZOS))
    assert np.array_equal(images[0], resized.transpose(2, 0, 1))  # "0.JPEG" comes before "0.png"


def test_a_truncated_jpeg_is_named(tmp_path, write_class_folders):
    write_class_folders(tmp_path)
    path = tmp_path / "val" / "val_b" / "7.jpg"
    Image.effect_noise((84, 84), 80).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(BadInput, match=r"val_b/7\.jpg cannot be decoded as an image .*truncated"):
        build(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_a_file_that_is_no_image_is_named(tmp_path, write_class_folders, content):
    write_class_folders(tmp_path)
    (tmp_path / "train" / "train_c" / "x.png").write_bytes(content)
    with pytest.raises(BadInput, match=r"train_c/x\.png cannot be decoded"):
        build(tmp_path)


def test_an_empty_class_is_named(tmp_path, write_class_folders):
    (write_class_folders(tmp_path) / "test" / "nothing").mkdir()
    with pytest.raises(BadInput, match="test/nothing holds no images"):
        build(tmp_path)


@pytest.mark.parametrize("split", SPLITS)
def test_a_missing_split_is_named(tmp_path, images, write_class_folders, split):
    shutil.rmtree(write_class_folders(tmp_path / "folders") / split)
    with pytest.raises(BadInput, match=f"the {split} split is missing"):
        build(tmp_path / "folders")
    (write_csv_files(tmp_path / "csv", images) / f"{split}.csv").unlink()
    with pytest.raises(BadInput, match=rf"{split}\.csv is missing"):
        build(tmp_path / "csv")
    (write_pickles(tmp_path / "pickles", images) / f"mini-imagenet-cache-{split}.pkl").unlink()
    with pytest.raises(BadInput, match=f"the {split} split"):
        build(tmp_path / "pickles")


def test_an_empty_split_is_named(tmp_path, images, write_class_folders):
    write_class_folders(tmp_path / "folders")
    shutil.rmtree(tmp_path / "folders" / "val")
    (tmp_path / "folders" / "val").mkdir()
    with pytest.raises(BadInput, match="val split is empty"):
        build(tmp_path / "folders")
    (write_csv_files(tmp_path / "csv", images) / "val.csv").write_text("filename,label\n")
    with pytest.raises(BadInput, match="val split of mini_imagenet holds no images"):
        build(tmp_path / "csv")


@pytest.mark.parametrize("unreadable", ["", "train", "train/train_b"])
def test_an_unreadable_folder_is_named(tmp_path, write_class_folders, monkeypatch, unreadable):
    write_class_folders(tmp_path)
    real = os.scandir

    def scandir(path):
        if Path(path) == tmp_path / unreadable:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(BadInput, match=f"{tmp_path / unreadable} cannot be read as a folder .Permission denied"):
        build(tmp_path)


def test_a_data_dir_that_is_a_file_is_named(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(BadInput, match="data cannot be read as a folder"):
        build(tmp_path / "data")


@pytest.mark.parametrize(
    "table", ["filename,class\na0.png,a\n", "filename,label\na0.png\n", "filename,label\nnowhere.png,train_a\n", "\xff"]
)
def test_a_bad_table_is_named(tmp_path, images, table):
    (write_csv_files(tmp_path, images) / "train.csv").write_bytes(table.encode("latin1"))
    with pytest.raises(BadInput, match=r"train\.csv"):
        build(tmp_path)


def test_classes_in_the_wrong_split_are_refused(tmp_path, images):
    own = {split: sorted(split_classes(split)) for split in SPLITS}
    picture = images["train"]["train_a"][:1]
    right = {split: {name: picture for name in own[split][:3]} for split in SPLITS}
    assert_holds(build(write_pickles(tmp_path / "right", right)), right)
    wrong = {**right, "val": {**right["val"], own["test"][5]: picture}}
    with pytest.raises(BadInput, match=f"Class {own['test'][5]} is in the val split, .* test split"):
        build(write_pickles(tmp_path / "wrong", wrong))
    custom = {**wrong, "val": {**wrong["val"], "my own class": picture}}
    assert_holds(build(write_pickles(tmp_path / "custom", custom)), custom)


def test_a_class_in_two_splits_is_refused(tmp_path, write_class_folders):
    write_class_folders(tmp_path)
    shutil.copytree(tmp_path / "train" / "train_a", tmp_path / "test" / "train_a")
    with pytest.raises(BadInput, match="Class train_a of mini_imagenet is in the train and the test split"):
        build(tmp_path)


def test_an_archive_with_another_checksum_is_refused(tmp_path, images, monkeypatch):
    write_archive(tmp_path / "data", images, monkeypatch)
    found = mini_imagenet.ARCHIVE_MD5
    monkeypatch.undo()
    with pytest.raises(BadInput, match=f"md5 is {found}, expected b38f1eb4251fb9459ecc8e7febf9b2eb"):
        build(tmp_path / "data")
    assert (tmp_path / "data" / "mini-imagenet.tar.gz").exists()


class Malicious:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.mkdir, exec, codecs.open])
def test_a_malicious_pickle_does_not_run(tmp_path, images, protocol, function):
    root = write_pickles(tmp_path / "data", images)
    target = tmp_path / "harmed"
    argument = {os.mkdir: str(target), exec: f"open({str(target)!r}, 'w')"}.get(function, str(target))
    arguments = (argument, "w") if function is codecs.open else (argument,)
    data = {"image_data": Malicious((function, arguments)), "class_dict": {}}
    bad = root / "mini-imagenet-cache-train.pkl"
    bad.write_bytes(pickle.dumps(data, protocol))
    with pytest.raises(BadInput, match=r"mini-imagenet-cache-train\.pkl is no pickle of plain data"):
        build(root)
    assert not target.exists()
    with open(bad, "rb") as file:
        pickle.load(file)
    assert target.exists()  # so the pickle was harmful indeed


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"image_data": np.zeros((2, 84, 84, 3), np.uint8)},
        {"image_data": np.zeros((2, 84, 84, 3), np.float32), "class_dict": {"a": [0, 1]}},
        {"image_data": np.zeros((2, 32, 32, 3), np.uint8), "class_dict": {"a": [0, 1]}},
        {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": [0, 2]}},
        {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": [0, 0]}},
        {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": []}},
        {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {}},
    ],
)
def test_a_pickle_of_something_else_is_named(tmp_path, images, data):
    path = write_pickles(tmp_path, images) / "mini-imagenet-cache-val.pkl"
    path.write_bytes(pickle.dumps(data))
    with pytest.raises(BadInput, match=r"cache-val\.pkl does not hold image_data"):
        build(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"cache-val\.pkl is no pickle"):
        build(tmp_path)


def test_scalars_and_strings_are_plain_data(tmp_path):
    data = {"a": np.float32(2), "b": [1, 2.5, "c", b"d", None, (True,)], "e": np.array(["f", "g"])}
    for protocol in range(6):
        (tmp_path / "x").write_bytes(pickle.dumps(data, protocol))
        with open(tmp_path / "x", "rb") as file:
            assert str(safe_pickle.load(file, "x")) == str(data)


def test_with_no_images_and_no_network_the_error_says_what_to_put_where(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(BadInput) as error:
        build(tmp_path / "data")
    text = str(error.value)
    for part in ("data_dir=", str(tmp_path / "data" / "mini_imagenet"), "train.csv", "terms of use", "127.0.0.1"):
        assert part in text
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_what_is_downloaded_is_used(tmp_path, images, monkeypatch):
    archive = write_archive(tmp_path / "server", images, monkeypatch) / "mini-imagenet.tar.gz"
    monkeypatch.setattr(mini_imagenet, "ARCHIVE_URLS", ["http://127.0.0.1:9/archive", archive.as_uri()])
    (tmp_path / "data").mkdir()
    assert_holds(build(tmp_path / "data"), images)


def test_loose_pickles_are_downloaded_where_the_archive_cannot_be(tmp_path, images, monkeypatch):
    server = tmp_path / "server"
    monkeypatch.setattr(mini_imagenet, "PICKLE_URLS", [server.as_uri() + "/{}"])
    write_pickles(server, images, validation="validation")
    (tmp_path / "data").mkdir()
    with pytest.raises(BadInput, match=r"cache-train\.pkl does not hold the train split of mini-ImageNet"):
        build(tmp_path / "data")
    assert [p for p in (tmp_path / "data").rglob("*") if p.is_file()] == []
    own = {split: {name: images["train"]["train_a"][:1] for name in split_classes(split)} for split in SPLITS}
    write_pickles(server, own, validation="validation")
    with pytest.raises(BadInput, match=r"cache-train\.pkl does not hold the train split"):  # 1 image of 600
        build(tmp_path / "data")
    monkeypatch.setattr(mini_imagenet, "IMAGES", 1)
    assert_holds(build(tmp_path / "data"), own)


def test_the_split_is_that_of_ravi_and_larochelle():
    classes = {split: split_classes(split) for split in SPLITS}
    assert {split: len(c) for split, c in classes.items()} == {"train": 64, "val": 16, "test": 20}
    assert len(frozenset().union(*classes.values())) == 100
    assert {"n01532829", "n13133613"} <= classes["train"]
    assert {"n01855672", "n03417042"} <= classes["val"]
    assert {"n01930112", "n07613480"} <= classes["test"]


def test_real_images(mini_imagenet_sample, tmp_path):
    os.symlink(mini_imagenet_sample / "mini_imagenet", tmp_path / "mini_imagenet")
    data = MiniImagenet(data_dir=str(tmp_path), query_samples=15, test_episodes=8)
    data.prepare_data()
    data.setup()
    for split, store in data.stores.items():
        assert store.class_names == sorted(split_classes(split))
        assert set(store.class_sizes.tolist()) == {30}
    path = sorted((tmp_path / "mini_imagenet" / "test" / "n07613480").iterdir())[3]
    store = data.stores["test"]
    row = store.class_starts[store.class_names.index("n07613480")] + 3
    with Image.open(path) as image:
        assert np.array_equal(store.images[row].transpose(1, 2, 0), np.asarray(image.convert("RGB")))
    batch = data.prepare(next(iter(data.test_dataloader())), "test", torch.float32)
    assert batch.support_x.shape == (4, 5, 3, 84, 84) and batch.query_x.shape == (4, 75, 3, 84, 84)
    assert 0 <= batch.query_x.min() < 0.1 and 0.9 < batch.query_x.max() <= 1
