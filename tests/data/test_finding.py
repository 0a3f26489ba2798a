"""A folder that the user named is looked into, and never filled with what the user did not ask for."""

import shutil

import numpy as np
import pytest
from PIL import Image

from few_shot.data import (
    CUB,
    FC100,
    CifarFS,
    MiniImagenet,
    Omniglot,
    TieredImagenet,
    cifar100,
    cub,
    mini_imagenet,
    omniglot,
    tiered_imagenet,
)
from few_shot.data.image_store import ImageStore
from few_shot.errors import BadInput
from training.command_line import clear_errors, parse

DATA_SETS = {  # the name in messages, and the subfolder that is its own
    MiniImagenet: ("mini-ImageNet", "mini_imagenet"),
    Omniglot: ("Omniglot", "omniglot"),
    CifarFS: ("CIFAR-FS", "cifar_fs"),
    FC100: ("FC100", "fc100"),
    CUB: ("CUB", "cub"),
    TieredImagenet: ("tieredImageNet", "tiered_imagenet"),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for module, name in (
        (mini_imagenet, "ARCHIVE_URLS"),
        (mini_imagenet, "PICKLE_URLS"),
        (omniglot, "URLS"),
        (cifar100, "ARCHIVE_URLS"),
        (cub, "ARCHIVE_URLS"),
        (tiered_imagenet, "ARCHIVE_URLS"),
    ):
        monkeypatch.setattr(module, name, ["http://127.0.0.1:9/{}"])


@pytest.fixture(params=DATA_SETS, ids=lambda data: data.__name__)
def data_class(request):
    return request.param


def everything(folder):
    return sorted(folder.rglob("*"))


def write_photos(root, classes=("cat", "dog"), photos=2):
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(photos):
            Image.new("RGB", (9, 9), (i, len(name), 0)).save(root / name / f"{i}.jpg")
    return root


def test_a_misspelt_folder_is_refused_and_nothing_is_made(tmp_path, data_class):
    write_photos(tmp_path / "photos")
    before = everything(tmp_path)
    with pytest.raises(BadInput, match=r"data_dir=.*phots does not exist \(did you mean photos\?\)") as error:
        data_class(data_dir=str(tmp_path / "phots")).prepare_data()
    assert DATA_SETS[data_class][0] in str(error.value)
    assert everything(tmp_path) == before


def test_a_folder_of_something_else_is_refused_and_says_what_is_there(tmp_path, data_class):
    write_photos(tmp_path, classes=[f"class{i}" for i in range(8)])
    (tmp_path / "notes.txt").touch()
    before = everything(tmp_path)
    title, own = DATA_SETS[data_class]
    with pytest.raises(BadInput) as error:
        data_class(data_dir=str(tmp_path)).prepare_data()
    text = str(error.value)
    assert f"data_dir={tmp_path} does not hold {title}. It holds 8 folders (class0, class1, " in text
    assert "and 3 more) and 1 file (notes.txt)" in text
    assert f"make the folder {tmp_path / own}" in text and "ImageFolders" in text
    assert everything(tmp_path) == before


@pytest.mark.parametrize("place", ["an empty folder", "its own folder", "the default folder", "only hidden files"])
def test_it_is_downloaded_where_it_may_be_and_that_is_said_first(tmp_path, data_class, place, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    title, own = DATA_SETS[data_class]
    folder = tmp_path / "data"
    if place != "the default folder":
        folder.mkdir()
    if place == "its own folder":
        (folder / own.upper()).mkdir()
        write_photos(folder)
    if place == "only hidden files":
        (folder / ".DS_Store").touch()
        (folder / "Thumbs.db").touch()
    before = everything(tmp_path)
    with pytest.raises(BadInput, match=r"could not be downloaded.*127\.0\.0\.1"):
        data_class(data_dir="data" if place == "the default folder" else str(folder)).prepare_data()
    assert f"{title} is not in " in capsys.readouterr().err
    assert everything(tmp_path) == before  # what could not be downloaded leaves no folder


@pytest.mark.parametrize("names", [("Train", "Val", "Test"), ("TRAIN", "Validation", "test")])
def test_split_folders_may_be_in_capitals(tmp_path, write_class_folders, names):
    write_class_folders(tmp_path)
    for split, name in zip(("train", "val", "test"), names, strict=True):
        (tmp_path / split).rename(tmp_path / f"{split}-"), (tmp_path / f"{split}-").rename(tmp_path / name)
    store = ImageStore.open(MiniImagenet(data_dir=str(tmp_path)).build_store(), "val")
    assert store.class_names == ["val_a", "val_b", "val_c"]


def test_two_folders_of_a_split_are_refused(tmp_path, write_class_folders):
    shutil.copytree(write_class_folders(tmp_path) / "val", tmp_path / "validation")
    with pytest.raises(BadInput, match="holds val and validation: keep one val folder"):
        MiniImagenet(data_dir=str(tmp_path)).build_store()


def test_images_of_every_format_are_read_and_none_left_out(tmp_path, write_class_folders):
    """Where ``.webp`` and ``.bmp`` were dropped in silence."""
    write_class_folders(tmp_path)
    for i, suffix in enumerate(("webp", "bmp", "tif", "GIF")):
        Image.new("RGB", (84, 84), (i, 0, 0)).save(tmp_path / "train" / "train_a" / f"x.{suffix}")
    (tmp_path / "train" / "train_a" / "Thumbs.db").touch()
    store = ImageStore.open(MiniImagenet(data_dir=str(tmp_path)).build_store(), "train")
    assert store.class_sizes.tolist() == [8, 2, 3]


def test_one_picture_in_two_splits_of_class_folders_is_refused(tmp_path, write_class_folders):
    write_class_folders(tmp_path)
    shutil.copy(tmp_path / "test" / "test_b" / "1.png", tmp_path / "train" / "train_c" / "new.png")
    with pytest.raises(BadInput, match=r"same picture .*test/test_b/1\.png is .*train/train_c/new\.png"):
        MiniImagenet(data_dir=str(tmp_path)).build_store()


def test_one_picture_in_two_of_mini_imagenets_own_classes_is_left_as_it_was_published(tmp_path):
    """Horizontal bar (validation) and parallel bars (training) share some; a file copied by hand has its old name."""
    own = {split: sorted(mini_imagenet.split_classes(split))[:2] for split in ("train", "val", "test")}
    for number, (split, classes) in enumerate(own.items()):
        for i, name in enumerate(classes):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (84, 84), 10 * number + i).save(tmp_path / split / name / f"{name}0001.png")
    first, second = (tmp_path / split / own[split][0] for split in ("train", "val"))
    shutil.copy(next(first.iterdir()), second / f"{second.name}0002.png")
    MiniImagenet(data_dir=str(tmp_path)).build_store()
    shutil.copy(next(first.iterdir()), second)
    with pytest.raises(BadInput, match="same picture"):
        MiniImagenet(data_dir=str(tmp_path)).build_store()


@pytest.mark.parametrize("label", ["train_a", "other"])
def test_rows_shared_by_two_csv_files_are_refused(tmp_path, label):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{split}.png")
        (tmp_path / f"{split}.csv").write_text(f"filename,label\n{split}.png,{split}_a\n")
    MiniImagenet(data_dir=str(tmp_path)).build_store()
    with open(tmp_path / "test.csv", "a") as table:
        table.write(f"train.png,{label}\n")
    with pytest.raises(BadInput, match=rf"train\.png is in train\.csv as train_a and in test\.csv as {label}"):
        MiniImagenet(data_dir=str(tmp_path)).build_store()
    (tmp_path / "images" / "copy.png").write_bytes((tmp_path / "images" / "train.png").read_bytes())
    (tmp_path / "test.csv").write_text(f"filename,label\ntest.png,test_a\ncopy.png,{label}2\n")
    with pytest.raises(BadInput, match=r"same picture .*copy\.png is .*train\.png"):
        MiniImagenet(data_dir=str(tmp_path)).build_store()


def test_the_command_line_ends_with_one_sentence_and_status_2(tmp_path, data_class, capsys):
    with pytest.raises(SystemExit) as end, clear_errors():
        parse([f"--data_class={data_class.__name__}", f"--data_dir={tmp_path / 'nowhere'}"], "test").build()
    assert end.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and f"data_dir={tmp_path / 'nowhere'} does not exist" in said
