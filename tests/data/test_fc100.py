"""FC100: CIFAR-100's archive, packed or extracted, by superclass."""

import itertools
import tarfile

import numpy as np
import pytest
from test_cifar_fs import contents, images, write_archive, write_class_folders

from few_shot.data import FC100, CifarFS
from few_shot.data.cifar_fs import split_classes as cifar_fs_classes
from few_shot.data.fc100 import split_classes
from few_shot.data.image_store import ImageStore
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

__all__ = ["images"]  # the fixture

# Krizhevsky 2009: two of CIFAR-100's superclasses of each split of Oreshkin et al. 2018 (appendix A).
SUPERCLASSES = {
    "train": ("maple_tree oak_tree palm_tree pine_tree willow_tree", "bicycle bus motorcycle pickup_truck train"),
    "val": ("bear leopard lion tiger wolf", "hamster mouse rabbit shrew squirrel"),
    "test": ("baby boy girl man woman", "beaver dolphin otter seal whale"),
}


def assert_holds(folder, images):
    for split in SPLITS:
        store = ImageStore.open(folder, split)
        assert store.class_names == list(split_classes(split))
        for name, start, size in zip(store.class_names, store.class_starts, store.class_sizes, strict=True):
            assert np.array_equal(store.images[start : start + size], images[name])


def test_the_split_is_that_of_oreshkin_and_others():
    assert [len(split_classes(split)) for split in SPLITS] == [60, 20, 20]
    every = [name for split in SPLITS for name in split_classes(split)]
    assert sorted(every) == sorted(name for split in SPLITS for name in cifar_fs_classes(split))
    for split, superclasses in SUPERCLASSES.items():
        assert {name for names in superclasses for name in names.split()} <= set(split_classes(split))


@pytest.mark.parametrize(
    ("form", "folder"),
    [
        *itertools.product(("class folders", "archive", "extracted"), ("", "fc100", "cifar100")),
        ("archive", "CIFAR-FS"),  # class folders there are of another split
    ],
)
def test_every_form_gives_the_same_pixels(tmp_path, images, monkeypatch, form, folder):
    root = tmp_path / "data" / folder
    if form == "class folders":
        write_class_folders(root, images, split_classes)
    else:
        write_archive(root, contents(images), monkeypatch)
        if form == "extracted":
            with tarfile.open(root / "cifar-100-python.tar.gz") as tar:
                tar.extractall(root, filter="data")
            (root / "cifar-100-python.tar.gz").unlink()
    assert_holds(FC100(data_dir=str(tmp_path / "data")).build_store(), images)


def test_one_archive_serves_both_splits(tmp_path, images, monkeypatch):
    write_archive(tmp_path / "fc100", contents(images), monkeypatch)
    folders = [data(data_dir=str(tmp_path)).build_store() for data in (FC100, CifarFS)]
    stores = [ImageStore.open(folder, "train") for folder in folders]
    assert [len(store.class_names) for store in stores] == [60, 64]


def test_class_folders_of_the_other_split_are_refused(tmp_path, images):
    write_class_folders(tmp_path, images)
    with pytest.raises(BadInput, match="is not of FC100's train split: it belongs in its"):
        FC100(data_dir=str(tmp_path)).build_store()


def test_an_extracted_file_that_is_no_pickle_is_named(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    for part in ("train", "test", "meta"):
        (tmp_path / "cifar-100-python" / part).write_bytes(b"x")
    with pytest.raises(BadInput, match="cifar-100-python/train is no pickle"):
        FC100(data_dir=str(tmp_path)).build_store()
