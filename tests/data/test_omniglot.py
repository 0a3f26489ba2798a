"""Omniglot in each of its forms: a generated one of five characters, and the real one."""

import hashlib
import io
import random
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from few_shot.data import omniglot
from few_shot.data.augment import OF_DRAWINGS, augment
from few_shot.data.image_store import ImageStore
from few_shot.data.omniglot import HALVES, Omniglot, split_characters
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput

SMALL = {
    "train": ("Latin/character01", "Latin/character02", "Runes/character01"),
    "val": ("Latin/character03",),
    "test": ("Runes/character02",),
}
SMALL_HALVES = {"images_background": (3, "0" * 32), "images_evaluation": (2, "0" * 32)}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """PNG files {path in a half: bytes} of a small Omniglot, in place of the real one; offline."""
    monkeypatch.setattr(omniglot, "split_characters", SMALL.__getitem__)
    monkeypatch.setattr(omniglot, "HALVES", SMALL_HALVES)
    monkeypatch.setattr(omniglot, "URLS", [(tmp_path / "server").as_uri() + "/{}.zip"])
    rng = np.random.default_rng(0)
    halves = {}
    for alphabet, half in (("Latin", "images_background"), ("Runes", "images_evaluation")):
        halves[half] = {}
        for number in range(SMALL_HALVES[half][0]):
            for drawing in range(20):
                file = io.BytesIO()
                Image.fromarray(rng.random((105, 105)) > 0.1).save(file, "PNG")  # ink is False
                name = f"{half}/{alphabet}/character{number + 1:02}/{number:04}_{drawing + 1:02}.png"
                halves[half][name] = file.getvalue()
    return halves


def write_zip(root, half, files):
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / f"{half}.zip", "w") as z:
        z.writestr(f"__MACOSX/{half}/Latin/character01/._0000_01.png", b"no image")
        for name in reversed(files):  # in no particular order
            z.writestr(name, files[name])


def write_folder(root, half, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def build(data_dir):
    return Omniglot(data_dir=str(data_dir)).build_store()


def expected(data):
    """Ink is high, the background 0; 28 by 28."""
    with Image.open(io.BytesIO(data)) as image:
        return np.where(np.asarray(image.convert("1").resize((28, 28))), 0, 255)[None]  # of 1 bit: nearest neighbour


def assert_holds(folder, small):
    files = {name.partition("/")[2]: data for half in small.values() for name, data in half.items()}
    for split, characters in SMALL.items():
        store = ImageStore.open(folder, split)
        upright = np.stack([expected(files[n]) for c in characters for n in sorted(files) if n.startswith(c + "/")])
        assert store.class_sizes.tolist() == [20] * len(store.class_names)
        assert store.class_names[: len(characters)] == list(characters)
        assert np.array_equal(store.images[: len(upright)], upright)
        n = len(characters)
        assert store.class_names[n:] == [f"{c}/rot{d}" for d in (90, 180, 270) for c in characters]
        turned = store.images[:].reshape(4, 20 * n, 28, 28)
        for quarter in range(4):
            assert np.array_equal(turned[quarter], np.rot90(upright[:, 0], quarter, axes=(1, 2)))


@pytest.mark.parametrize("write", [write_zip, write_folder])
@pytest.mark.parametrize("folder", ["", "omniglot", "Omniglot", "omniglot-py", "omniglot/python"])
def test_every_form_gives_the_same_pixels(tmp_path, small, write, folder):
    for half, files in small.items():
        write(tmp_path / "data" / folder, half, files)
    assert_holds(build(tmp_path / "data"), small)


def test_halves_may_lie_in_different_places_and_forms(tmp_path, small):
    write_zip(tmp_path, "images_background", small["images_background"])
    write_folder(tmp_path / "omniglot-py", "images_evaluation", small["images_evaluation"])
    assert_holds(build(tmp_path), small)


def test_images_that_are_gone_are_not_missed(tmp_path, small):
    for half, files in small.items():
        write_folder(tmp_path, half, files)
    folder = build(tmp_path)
    shutil.rmtree(tmp_path / "images_background")
    assert build(tmp_path) == folder
    shutil.rmtree(tmp_path / "images_evaluation")
    assert build(tmp_path) == folder


def test_a_changed_drawing_is_read_again(tmp_path, small):
    for half, files in small.items():
        write_folder(tmp_path, half, files)
    build(tmp_path)
    name = "images_evaluation/Runes/character02/0001_20.png"
    small["images_evaluation"][name] = small["images_evaluation"][name.replace("_20", "_01")]
    (tmp_path / name).write_bytes(small["images_evaluation"][name])
    assert_holds(build(tmp_path), small)


def test_the_missing_half_is_downloaded(tmp_path, small, monkeypatch):
    write_zip(tmp_path / "data", "images_background", small["images_background"])
    write_zip(tmp_path / "server", "images_evaluation", small["images_evaluation"])
    with pytest.raises(BadInput, match=r"images_evaluation\.zip.*expected 00000"):
        build(tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.part"))
    digest = hashlib.md5((tmp_path / "server" / "images_evaluation.zip").read_bytes()).hexdigest()
    monkeypatch.setitem(omniglot.HALVES, "images_evaluation", (2, digest))
    assert_holds(build(tmp_path / "data"), small)
    assert (tmp_path / "data" / "omniglot" / "images_evaluation.zip").is_file()
    assert not (tmp_path / "data" / "omniglot" / "images_background.zip").exists()


def test_with_no_images_and_no_network_the_error_says_what_to_put_where(tmp_path, small):
    (tmp_path / "data").mkdir()
    with pytest.raises(BadInput, match=r"images_background\.zip is not in data_dir=.*put it there, as .*omniglot"):
        build(tmp_path / "data")


@pytest.mark.parametrize("write", [write_zip, write_folder])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("a drawing less", "images_background.* must hold 3 characters of 20 drawings each, but has 19 of Latin/char"),
        ("a character less", "images_background.* must hold 3 characters .* has 2 characters"),
        ("another name", "Latin/character03 is missing or unknown"),
        ("no image", r"0000_05\.png in .*images_background.* cannot be decoded"),
    ],
)
def test_a_wrong_half_is_named(tmp_path, small, write, damage, message):
    files = small["images_background"]
    if damage == "a drawing less":
        del files["images_background/Latin/character01/0000_05.png"]
    elif damage == "no image":
        name = "images_background/Latin/character01/0000_05.png"
        files[name] = files[name][:60]
    else:
        third = {name: data for name, data in files.items() if "character03" in name}
        for name in third:
            del files[name]
        if damage == "another name":
            files.update({name.replace("character03", "character99"): data for name, data in third.items()})
    for half in small:
        write(tmp_path, half, small[half])
    with pytest.raises(BadInput, match=message):
        build(tmp_path)


def test_a_truncated_archive_is_named(tmp_path, small):
    for half, files in small.items():
        write_zip(tmp_path, half, files)
    path = tmp_path / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(BadInput, match=r"images_evaluation\.zip cannot be read"):
        build(tmp_path)


def test_an_unreadable_folder_is_named(tmp_path, small):
    for half, files in small.items():
        write_folder(tmp_path, half, files)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="file cannot be read as a folder"):
        build(tmp_path / "file")


def test_rotations_are_classes_unless_switched_off(tmp_path, small):
    for half, files in small.items():
        write_zip(tmp_path, half, files)
    for rotations, classes in ((True, 12), (False, 3)):
        data = Omniglot(data_dir=str(tmp_path), rotations=rotations, test_query_samples=5, episode_classes=2)
        with pytest.raises(BadInput, match="1 classes of the val split"):
            data.setup()
        assert len(data.stores["train"].class_names) == classes
        drawn = data.stores["train"].gather(data.draw("train", 0, np.arange(300)).support_x.flatten()).unique(dim=0)
        assert (len(drawn) > 60) == rotations  # 60 upright drawings there are
    with pytest.raises(BadInput, match="train_classes=2 needs rotations=false"):
        Omniglot(train_classes=2)


def test_drawings_are_augmented_as_drawings(tmp_path, small):
    """Not mirrored, which makes another character of one, and black and white still."""
    for half, files in small.items():
        write_zip(tmp_path, half, files)
    data = Omniglot(data_dir=str(tmp_path), test_query_samples=1, episode_classes=2, augment=True)
    with pytest.raises(BadInput, match="of the val split"):
        data.setup()
    data.trainer = SimpleNamespace(
        training=True, testing=False, predicting=False, lightning_module=torch.nn.Linear(1, 1)
    )
    batch = data.draw("train", 0, np.arange(3))
    plain = data.prepare(batch, "train", torch.float32).support_x
    augmented = data.on_after_batch_transfer(batch).support_x
    assert torch.equal(augmented, augment((plain,), 0, batch.index, OF_DRAWINGS)[0])
    assert not torch.equal(augmented, plain)


def test_the_split_is_the_documented_shuffle():
    characters = sorted(c for split in SPLITS for c in split_characters(split))
    assert len(set(characters)) == 1623
    random.Random(0).shuffle(characters)
    parts = {"train": characters[:1100], "val": characters[1100:1200], "test": characters[1200:]}
    assert {split: tuple(sorted(part)) for split, part in parts.items()} == {s: split_characters(s) for s in SPLITS}


def test_the_real_images(real_data, tmp_path):
    for half in HALVES:
        if not (real_data / f"{half}.zip").is_file():
            pytest.skip(f"{real_data / half}.zip is missing")
        (tmp_path / f"{half}.zip").symlink_to(real_data / f"{half}.zip")
    data = Omniglot(data_dir=str(tmp_path), test_query_samples=1)
    data.prepare_data()
    data.setup()
    sizes = {split: (len(store.class_names), len(store.images)) for split, store in data.stores.items()}
    assert sizes == {"train": (4400, 88000), "val": (400, 8000), "test": (1692, 33840)}
    with zipfile.ZipFile(real_data / "images_evaluation.zip") as z:
        name = next(n for n in z.namelist() if str(Path(n).parent).partition("/")[2] in split_characters("test"))
        store = data.stores["test"]
        start = store.class_starts[store.class_names.index(str(Path(name).parent).partition("/")[2])]
        drawings = sorted(n for n in z.namelist() if Path(n).parent == Path(name).parent)
        assert np.array_equal(store.images[start : start + 20], np.stack([expected(z.read(n)) for n in drawings]))
    ink = store.images[:].mean() / 255
    assert 0.02 < ink < 0.2  # thin strokes on an empty background
    batch = data.prepare(next(iter(data.test_dataloader())), "test", torch.float32)
    assert batch.support_x.shape == (4, 5, 1, 28, 28) and batch.support_x.dtype == torch.float32
    assert batch.support_x.min() == 0 and batch.support_x.max() == 1
