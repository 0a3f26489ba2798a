"""CUB-200-2011 from its archive, from what it extracts to and from class folders, and each way it can be wrong."""

import hashlib
import io
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from few_shot.data import CUB, cub
from few_shot.data.cub import split_classes
from few_shot.data.image_store import ImageStore
from few_shot.data.pictures import read_pictures
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

EVERY = [name for split in SPLITS for name in split_classes(split)]


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch):
    monkeypatch.setattr(cub, "ARCHIVE_URLS", ["http://127.0.0.1:9/archive"])
    monkeypatch.setattr(cub, "IMAGES", 2 * len(EVERY))


@pytest.fixture(scope="module")
def photos():
    """Two wide or high photos of each class, as files: {class: [png, png]}."""
    rng = np.random.default_rng(0)
    found = {}
    for name in EVERY:
        found[name] = []
        for shape in ((30, 50, 3), (40, 20, 3)):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(file, "PNG")
            found[name].append(file.getvalue())
    return found


def write_extracted(images, photos):
    for name, files in photos.items():
        (images / name).mkdir(parents=True)
        for i, data in enumerate(files):
            (images / name / f"{i}.png").write_bytes(data)


def write_class_folders(root, photos, classes=split_classes):
    for split in SPLITS:
        write_extracted(root / split, {name: photos[name] for name in classes(split)})


def write_archive(root, photos, monkeypatch):
    write_extracted(root / "CUB_200_2011" / "images", photos)
    (root / "CUB_200_2011" / "images" / EVERY[0] / "._0.png").write_bytes(b"as macOS leaves them")
    (root / "CUB_200_2011" / "README").touch()
    with tarfile.open(root / "CUB_200_2011.tgz", "w:gz") as tar:
        tar.add(root / "CUB_200_2011", arcname="CUB_200_2011")
    shutil.rmtree(root / "CUB_200_2011")
    monkeypatch.setattr(cub, "ARCHIVE_MD5", hashlib.md5((root / "CUB_200_2011.tgz").read_bytes()).hexdigest())


def build(data_dir):
    return CUB(data_dir=str(data_dir)).build_store()


def assert_holds(folder, photos):
    for split in SPLITS:
        store = ImageStore.open(folder, split)
        assert store.class_names == list(split_classes(split))
        for name, start, size in zip(store.class_names, store.class_starts, store.class_sizes, strict=True):
            pictures = [Image.open(io.BytesIO(data)) for data in photos[name]]
            expected = read_pictures(pictures, CUB().preprocessing)
            assert np.array_equal(store.images[start : start + size], expected)


@pytest.mark.parametrize("form", ["class folders", "extracted", "extracted, images alone", "archive"])
@pytest.mark.parametrize("folder", ["", "CUB"])
def test_every_form_gives_the_same_pixels(tmp_path, photos, monkeypatch, form, folder):
    root = tmp_path / folder
    root.mkdir(exist_ok=True)
    if form == "class folders":
        write_class_folders(root, photos)
    elif form == "archive":
        write_archive(root, photos, monkeypatch)
    else:
        write_extracted(root / ("images" if "alone" in form else "CUB_200_2011/images"), photos)
    assert_holds(build(tmp_path), photos)


def test_the_split_is_that_of_chen_and_others():
    """Every second class, beginning with the first, trains; of the others every second validates."""
    by_number = sorted(EVERY)
    assert len(set(EVERY)) == 200 and by_number[0] == "001.Black_footed_Albatross"
    assert list(split_classes("train")) == by_number[0::2]
    assert list(split_classes("val")) == by_number[1::4]
    assert list(split_classes("test")) == by_number[3::4]


def test_what_is_missing_from_an_extracted_archive_is_named(tmp_path, photos):
    write_extracted(tmp_path / "images", photos)
    (tmp_path / "images" / EVERY[3] / "1.png").unlink()
    with pytest.raises(BadInput, match="holds 399 images, and CUB has 400"):
        build(tmp_path)
    shutil.rmtree(tmp_path / "images" / EVERY[3])
    with pytest.raises(BadInput, match=f"{EVERY[3]} is missing: extract the whole archive"):
        build(tmp_path)


def test_a_class_in_another_split_is_refused(tmp_path, photos):
    write_class_folders(tmp_path, photos, lambda split: split_classes(split)[:3])
    name = split_classes("test")[7]
    write_extracted(tmp_path / "train", {name: photos[name]})
    with pytest.raises(BadInput, match=f"Class {name} .* is not of CUB's train split: it belongs in its test split"):
        build(tmp_path)


def test_an_archive_of_something_else_is_named(tmp_path, photos, monkeypatch):
    write_archive(tmp_path, photos, monkeypatch)
    whole = (tmp_path / "CUB_200_2011.tgz").read_bytes()
    monkeypatch.undo()
    with pytest.raises(BadInput, match="expected 97eceeb196236b17998738112f37df78"):
        build(tmp_path)
    for content, message in ((whole[:5000], "cannot be read"), (b"nothing", "cannot be read")):
        (tmp_path / "CUB_200_2011.tgz").write_bytes(content)
        monkeypatch.setattr(cub, "ARCHIVE_MD5", hashlib.md5(content).hexdigest())
        with pytest.raises(BadInput, match=message):
            build(tmp_path)
    del (some := dict(photos))[EVERY[9]]
    write_archive(tmp_path, some, monkeypatch)
    with pytest.raises(BadInput, match=f"holds no images of {EVERY[9]}"):
        build(tmp_path)


def test_with_no_images_and_no_network_the_error_says_what_to_put_where(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(BadInput) as error:
        build(tmp_path / "data")
    for part in ("data_dir=", str(tmp_path / "data" / "cub"), "97eceeb1", "/<class>/", "127.0.0.1"):
        assert part in str(error.value)


def test_what_is_downloaded_is_used(tmp_path, photos, monkeypatch):
    (tmp_path / "server").mkdir()
    write_archive(tmp_path / "server", photos, monkeypatch)
    monkeypatch.setattr(cub, "ARCHIVE_URLS", [(tmp_path / "server" / "CUB_200_2011.tgz").as_uri()])
    (tmp_path / "data").mkdir()
    assert_holds(build(tmp_path / "data"), photos)
