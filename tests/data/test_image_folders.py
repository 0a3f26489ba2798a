"""A folder of one's own pictures, as it lies on disk, and each way it can be wrong."""

import itertools
import pickle
import re
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from helpers import write_random_class_folders
from PIL import Image

from few_shot.data import ImageFolders, image_store
from few_shot.data.image_store import ImageStore
from few_shot.data.picture_folders import draw_classes
from few_shot.data.pictures import read_pictures
from few_shot.episodes import SPLITS
from few_shot.errors import BadInput
from training.command_line import parse

SMALL = {"image_size": 8, "episode_classes": 2, "query_samples": 2, "test_query_samples": 2}
SUFFIXES = ("jpg", "PNG", "webp", "bmp", "tif", "gif")
NAMES = [f"class {c}" for c in "abcdefghi"]  # nine: three a split


def write_class(folder, pictures=3, seed=0):
    """Small random pictures of several formats, sizes and modes."""
    rng = np.random.default_rng([seed, *folder.name.encode()])
    folder.mkdir(parents=True)
    for i in range(pictures):
        height, width = rng.integers(5, 20, 2)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image = image.convert(("RGB", "L", "RGBA", "P")[i % 4]) if i % 6 > 0 else image
        image.save(folder / f"{i}.{SUFFIXES[i % 6]}")
    return folder


@pytest.fixture
def photos(tmp_path):
    """Unsplit folders of nine classes."""
    for name in NAMES:
        write_class(tmp_path / "photos" / name)
    return tmp_path / "photos"


def split_by_hand(photos, names=("train", "val", "test")):
    for name, i in zip(NAMES, itertools.count()):
        (photos / names[i % 3]).mkdir(exist_ok=True)
        (photos / name).rename(photos / names[i % 3] / name)
    return photos


def made(photos, **arguments):
    data = ImageFolders(data_dir=str(photos), **{**SMALL, **arguments})
    data.prepare_data()
    data.setup()
    return data


def classes_of(data):
    return data.record()["classes"]


def test_every_class_is_in_one_split_and_every_picture_in_the_store(photos):
    (photos / NAMES[0] / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (photos / NAMES[1] / "Thumbs.db").write_bytes(b"x")
    (photos / NAMES[2] / "desktop.ini").write_text("[.ShellClassInfo]")
    (photos / "__MACOSX").mkdir()
    (photos / "notes.txt").touch()
    data = made(photos)
    assert sorted(itertools.chain(*classes_of(data).values())) == NAMES
    for split in SPLITS:
        store = data.stores[split]
        assert store.class_names == sorted(store.class_names) and len(store.class_names) == 3
        for name, start, size in zip(store.class_names, store.class_starts, store.class_sizes, strict=True):
            files = sorted(path for path in (photos / name).iterdir() if path.suffix[1:] in SUFFIXES)
            assert np.array_equal(store.images[start : start + size], read_pictures(files, data.preprocessing))
    assert data.preprocessing["crop"] == "center" and data.input_shape == (3, 8, 8)
    batch = data.prepare(data.draw("test", 0, np.arange(4)), "test", torch.float32)
    assert batch.support_x.shape == (4, 2, 3, 8, 8) and batch.query_x.shape == (4, 4, 3, 8, 8)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "VALIDATION", "TEST")])
def test_folders_that_are_split_stay_split(photos, names):
    split_by_hand(photos, names)
    data = made(photos)
    assert classes_of(data) == {split: NAMES[i::3] for i, split in enumerate(SPLITS)}
    assert data.record()["class_split"] == "as the folders are"


def test_the_draw_depends_on_its_own_seed_alone(photos):
    first = classes_of(made(photos))
    assert classes_of(made(photos, seed=7)) == first
    assert classes_of(made(photos, support_samples=1, query_samples=1)) == first
    others = [classes_of(made(photos, split_seed=seed)) for seed in (1, 2, 3)]
    assert any(other != first for other in others)
    assert made(photos, split_seed=3).record()["class_split"] == "drawn with split_seed=3"


def test_the_draw_does_not_depend_on_the_order_of_the_names_or_their_spelling():
    names = [f"class {i}" for i in range(30)] + ["Möwe", "Bär"]
    share = (0.64, 0.16, 0.2)
    expected = draw_classes(names, share, 0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert draw_classes(rng.permutation(names).tolist(), share, 0) == expected
    decomposed = [unicodedata.normalize("NFD", name) for name in names]  # as macOS has written them
    other = draw_classes(decomposed, share, 0)
    assert {s: {unicodedata.normalize("NFC", n) for n in x} for s, x in other.items()} == {
        s: set(x) for s, x in expected.items()
    }


@pytest.mark.parametrize(
    ("classes", "share", "sizes"),
    [
        (100, (0.64, 0.16, 0.20), (64, 16, 20)),
        (100, (64, 16, 20), (64, 16, 20)),
        (24, (0.64, 0.16, 0.20), (14, 5, 5)),  # five ways fit everywhere
        (15, (0.64, 0.16, 0.20), (5, 5, 5)),
        (9, (0.64, 0.16, 0.20), (3, 3, 3)),
        (50, (0.98, 0.01, 0.01), (40, 5, 5)),
        (50, (0.01, 0.01, 0.98), (5, 5, 40)),
        (3, (0.64, 0.16, 0.20), (1, 1, 1)),
        (2, (0.64, 0.16, 0.20), (2, 0, 0)),
    ],
)
def test_the_sizes_of_the_splits(classes, share, sizes):
    names = [f"c{i}" for i in range(classes)]
    draw = draw_classes(names, share, 0)
    assert tuple(len(draw[split]) for split in SPLITS) == sizes
    assert sorted(itertools.chain(*draw.values())) == sorted(names)


def test_every_class_is_as_likely_to_be_tested():
    """Of 1000 seeds, a class is tested in a fifth, to four standard deviations."""
    names = [f"c{i}" for i in range(25)]
    tested = np.zeros(25)
    for seed in range(1000):
        for name in draw_classes(names, (0.6, 0.2, 0.2), seed)["test"]:
            tested[names.index(name)] += 1
    assert np.abs(tested - 200).max() < 4 * np.sqrt(1000 * 0.2 * 0.8)


def test_a_class_that_is_added_moves_few_others():
    names = [f"c{i}" for i in range(50)]
    before, after = (draw_classes(n, (0.64, 0.16, 0.20), 0) for n in (names, [*names, "new"]))
    assert sum(len(set(before[s]) - set(after[s])) for s in SPLITS) <= 2


@pytest.mark.parametrize(
    "share", ["0.5,0.5", (0.5, 0.5, 0.0), "a,b,c", (0.5, -1, 1), (1, 1, float("nan")), (1, 1, float("inf")), None]
)
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(BadInput, match=r"class_split=.* must be three numbers above 0"):
        ImageFolders(class_split=share)


def test_the_flags_of_the_command_line(photos):
    flags = ["--data_class=ImageFolders", f"--data_dir={photos}", "--image_size=16", "--class_split=0.5,0.25,0.25"]
    for more in ([], ["--skip_bad_images", "--skip_small_classes", "--split_seed=4"]):
        data, _ = parse(
            [*flags, *more, "--episode_classes=2", "--query_samples=1", "--test_query_samples=1"], ""
        ).build()
        assert data.class_split == (0.5, 0.25, 0.25) and data.skip_bad_images == bool(more)
    assert parse([flags[0], flags[1]], "").arguments["data_class"]["class_split"] == (0.64, 0.16, 0.20)


def test_a_store_is_built_once_for_each_draw_and_size(photos, monkeypatch):
    made(photos)
    split, other_size = made(photos, split_seed=1), made(photos, image_size=9)
    monkeypatch.setattr(image_store, "_build", None)
    for data in (made(photos), made(photos, seed=5), made(photos, split_seed=1), made(photos, image_size=9)):
        assert data.stores.keys() == set(SPLITS)
    assert classes_of(made(photos, split_seed=1)) == classes_of(split) and other_size.input_shape == (3, 9, 9)


@pytest.mark.parametrize("change", ["replaced", "added", "renamed", "removed", "class renamed"])
def test_a_changed_folder_is_read_again(photos, change):
    before = {s: x.images.copy() for s, x in made(photos).stores.items()}
    path = photos / NAMES[4] / "3.bmp"
    if change == "replaced":
        Image.new("RGB", (9, 9), "blue").save(photos / NAMES[4] / "0.jpg")
    elif change == "added":
        Image.new("RGB", (9, 9), "red").save(path)
    elif change == "renamed":
        (photos / NAMES[4] / "0.jpg").rename(photos / NAMES[4] / "z.jpg")
    elif change == "removed":
        (photos / NAMES[4] / "0.jpg").unlink()
    else:
        (photos / NAMES[4]).rename(photos / "class j")
    data = made(photos, test_query_samples=1, query_samples=1)
    after = {s: x.images for s, x in data.stores.items()}
    assert any(not np.array_equal(before[split], after[split]) for split in SPLITS)
    name = "class j" if change == "class renamed" else NAMES[4]
    files = sorted((photos / name).iterdir())
    store = next(x for x in data.stores.values() if name in x.class_names)
    i = store.class_names.index(name)
    rows = slice(store.class_starts[i], store.class_starts[i] + store.class_sizes[i])
    assert np.array_equal(store.images[rows], read_pictures(files, data.preprocessing))


def test_all_bad_files_are_named_at_once_and_left_out_only_when_asked(photos, capsys):
    (photos / NAMES[0] / "notes.txt").write_text("not a picture")
    (photos / NAMES[1] / "empty.jpg").touch()
    cut = photos / NAMES[2] / "0.jpg"
    Image.effect_noise((64, 64), 80).save(cut)
    cut.write_bytes(cut.read_bytes()[:800])
    (photos / NAMES[3] / "raw").mkdir()
    (photos / NAMES[4] / "nowhere.png").symlink_to(photos / "gone.png")
    Image.new("L", (9, 9)).save(photos / "loose.png")
    with pytest.raises(BadInput) as error:
        made(photos)
    bad = ("class a/notes.txt", "class b/empty.jpg", "class c/0.jpg", "class d/raw", "class e/nowhere.png", "loose.png")
    for name in bad:
        assert f"{photos / name} (" in str(error.value)
    assert "6 files or folders are no pictures" in str(error.value) and "skip_bad_images=true" in str(error.value)

    arguments = {"skip_bad_images": True, "test_query_samples": 1, "query_samples": 1}
    for _ in range(2):  # built, and found built
        data = made(photos, **arguments)
        said = capsys.readouterr().err
        assert "6 files or folders are left out" in said and all(str(photos / name) in said for name in bad)
        assert len(data.record()["left_out"]["files"]) == 6
        sizes = {n: k for x in data.stores.values() for n, k in zip(x.class_names, x.class_sizes, strict=True)}
        assert sizes == {name: 2 if name == "class c" else 3 for name in NAMES}
        store = next(x for x in data.stores.values() if "class c" in x.class_names)
        for name, start, size in zip(store.class_names, store.class_starts, store.class_sizes, strict=True):
            files = [photos / name / f"{i}.{SUFFIXES[i]}" for i in range(3)][-size:]
            assert np.array_equal(store.images[start : start + size], read_pictures(files, data.preprocessing))


def test_a_split_of_bad_files_alone_is_refused(photos):
    split_by_hand(photos)
    for path in (photos / "val").rglob("*.*"):
        path.write_bytes(b"x")
    with pytest.raises(BadInput, match="9 files or folders are no pictures"):
        made(photos)
    with pytest.raises(BadInput, match="Of the val split, no image could be read"):
        made(photos, skip_bad_images=True)


@pytest.mark.parametrize("layout", ["drawn", "by hand"])
def test_one_picture_in_two_classes_is_refused(photos, layout):
    if layout == "by hand":
        split_by_hand(photos)
    folders = sorted(path.parent for path in photos.rglob("0.jpg"))
    shutil.copy(folders[1] / "0.jpg", folders[1] / "again.jpg")  # in the same class, which is the user's business
    made(photos)
    shutil.copy(folders[1] / "0.jpg", folders[2] / "another name.jpg")
    shutil.copy(folders[4] / "1.PNG", folders[8] / "copy")
    for arguments in ({}, {"skip_bad_images": True}):
        with pytest.raises(BadInput, match="same picture lies in two") as error:
            made(photos, **arguments)
        for pair in (
            (folders[1] / "0.jpg", folders[2] / "another name.jpg"),
            (folders[4] / "1.PNG", folders[8] / "copy"),
        ):
            assert all(str(path) in str(error.value) for path in pair)


def test_all_small_classes_and_splits_are_told_at_once_with_what_to_do(photos, capsys):
    split_by_hand(photos)
    for split, name, left in (("train", "class a", 1), ("val", "class b", 2), ("test", "class f", 0)):
        for path in sorted((photos / split / name).iterdir())[left:]:
            path.unlink()
    shutil.rmtree(photos / "test" / "class i")
    with pytest.raises(BadInput) as error:
        made(photos, episode_classes=3)
    text = str(error.value)
    for part in (
        "Classes to train on with fewer than 3 pictures: class a (1).",
        "Classes to validate on with fewer than 3 pictures: class b (2).",
        "Classes to test on with fewer than 3 pictures: class f (0).",
        "Classes to test on: 2 of the 3 needed.",
        "tell 3 classes apart (the ways)",
        "1 of each class's pictures (the shots)",
        "2 others (the queries)",
        "episode_classes=2",
    ):
        assert part in text
    assert "skip_small_classes" not in text  # it would leave one class to test on
    assert not (photos / ".few_shot").exists()
    write_class(photos / "test" / "class i")
    with pytest.raises(BadInput, match=r"skip_small_classes=true with episode_classes=2"):
        made(photos, episode_classes=3)
    data = made(photos, skip_small_classes=True)
    assert classes_of(data) == {s: NAMES[i::3][(i == 0) :] for i, s in enumerate(SPLITS)} | {
        "train": ["class d", "class g"],
        "val": ["class e", "class h"],
        "test": ["class c", "class i"],
    }
    assert data.record()["left_out"]["classes"] == ["class a", "class b", "class f"]
    said = capsys.readouterr().err
    assert all(name in said for name in ("class a (1)", "class b (2)", "class f (0)"))
    pixels = read_pictures(sorted((photos / "test" / "class i").iterdir()), data.preprocessing)
    drawn = data.stores["test"].gather(data.draw("test", 0, np.arange(20)).support_x).flatten(0, 1)
    whole = read_pictures(sorted((photos / "test").glob("class [ci]/*")), data.preprocessing)
    assert all(any(np.array_equal(x, y) for y in whole) for x in drawn.numpy())
    assert any(np.array_equal(x, pixels[0]) for x in drawn.numpy())


def test_what_is_advised_helps(photos):
    for path in sorted((photos / "class b").iterdir())[2:]:
        path.unlink()
    with pytest.raises(BadInput, match=r"class b \(2\).*query_samples=1") as error:
        made(photos)
    flag = "test_query_samples" if "test_query_samples=1" in str(error.value) else "query_samples"
    made(photos, **{flag: 1})
    made(photos, skip_small_classes=True)


def test_train_classes_are_the_first_that_are_large_enough(photos):
    split_by_hand(photos)
    (photos / "train" / "class a" / "0.jpg").unlink()
    data = made(photos, skip_small_classes=True, train_classes=2)
    assert classes_of(data)["train"] == ["class d", "class g"]
    rows = data.draw("train", 0, np.arange(30)).support_x
    files = sorted((photos / "train").glob("class [dg]/*"))
    pixels = {x.tobytes() for x in read_pictures(files, data.preprocessing)}
    assert {x.numpy().tobytes() for x in data.stores["train"].gather(rows.flatten())} <= pixels


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("misspelt", r"data_dir=.*photo does not exist \(did you mean photos\?\)"),
        ("empty", "holds nothing, but no class folders"),
        ("no folders", r"holds 1 file \(x.jpg\), but no class folders"),
        ("one folder too high", "holds one folder, which holds the others: name data_dir=.*photos"),
        ("no val", "holds test and train, but no val: move some of the class folders"),
        ("an empty val", "val split is empty"),
        ("same class in two", "Class class a of .* is in the train and the val split"),
        ("a file", "cannot be read as a folder"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_and_is_left_as_it_is(tmp_path, photos, wrong, message):
    folder = tmp_path / "other"
    if wrong == "misspelt":
        folder = tmp_path / "photo"
    elif wrong in ("empty", "no folders"):
        folder.mkdir()
        if wrong == "no folders":
            (folder / "x.jpg").touch()
    elif wrong == "one folder too high":
        folder = tmp_path
        (tmp_path / "a.txt").touch()
    elif wrong == "a file":
        folder.touch()
    else:
        folder = split_by_hand(photos)
        shutil.rmtree(photos / "val")
        if wrong == "an empty val":
            (photos / "val").mkdir()
        elif wrong == "same class in two":
            for name in NAMES[:3]:
                write_class(photos / "val" / name, seed=1)
    before = sorted(path for path in tmp_path.rglob("*") if ".few_shot" not in path.parts)
    with pytest.raises(BadInput, match=message):
        made(folder)
    assert sorted(path for path in tmp_path.rglob("*") if ".few_shot" not in path.parts) == before
    if wrong != "same class in two":
        assert not list(tmp_path.rglob(".few_shot"))


def test_an_empty_folder_takes_part_in_the_draw_and_is_told_of(photos):
    made(photos)
    (photos / "class z").mkdir()
    with pytest.raises(BadInput, match=r"class z \(0\)"):
        made(photos)
    assert made(photos, skip_small_classes=True).record()["left_out"]["classes"] == ["class z"]


def test_a_folder_beside_the_splits_is_not_dropped_in_silence(photos):
    split_by_hand(photos)
    write_class(photos / "later" / "class z")
    with pytest.raises(BadInput, match=r"later \(a folder beside those of the splits\)"):
        made(photos)
    assert made(photos, skip_bad_images=True).record()["left_out"]["files"]


def test_a_folder_that_cannot_be_written_to_is_served_from_the_cache(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos.chmod(0o555)
    try:
        data = made(photos)
    finally:
        photos.chmod(0o755)
    assert data.stores["test"].folder.is_relative_to(tmp_path / "cache")
    said = capsys.readouterr().err
    assert said.count(f"{photos} cannot be written to: the decoded images go to {tmp_path / 'cache'}") == 1


def test_a_test_on_classes_that_were_trained_on_is_refused(photos):
    trained = made(photos)
    trained.refuse_trained_classes(trained.record())
    other = made(photos, split_seed=1)
    both = set(classes_of(trained)["train"]) & set(classes_of(other)["test"])
    assert both
    with pytest.raises(BadInput, match=f"was trained on .*{min(both)}.* of the test split"):
        other.refuse_trained_classes(trained.record())
    other.test_split = "train"
    other.refuse_trained_classes(trained.record())


def test_of_copies_in_one_class_one_is_taken_and_the_others_are_named(photos, capsys):
    """A task would learn from a picture and be judged on it."""
    for name in NAMES:
        for i in range(2):
            shutil.copy(photos / name / f"{i}.{SUFFIXES[i]}", photos / name / f"{i} (1).{SUFFIXES[i]}")
    data = made(photos)
    assert all((store.class_sizes == 3).all() for store in data.stores.values())
    assert len(data.record()["left_out"]["files"]) == 18
    assert f"{photos / NAMES[0] / '0.jpg'} (the same picture as 0 (1).jpg)" in data.record()["left_out"]["files"]
    assert "18 files or folders are left out" in capsys.readouterr().err
    shutil.rmtree(data.stores["test"].folder)
    for i in (1, 2):
        (photos / NAMES[0] / f"{i}.{SUFFIXES[i]}").unlink()
    with pytest.raises(BadInput, match=r"fewer than 3 pictures: class a \(2\)"):
        made(photos)


def test_folders_in_a_class_are_named_where_its_pictures_are_too_few(photos):
    for name in NAMES:
        (photos / name).rename(photos / f"{name} of 2023")
        (photos / name).mkdir()
        (photos / f"{name} of 2023").rename(photos / name / "2023")
    with pytest.raises(BadInput, match=r"too few pictures.*9 files or folders are not counted: .*class a.2023 \("):
        made(photos)


def test_a_class_is_the_same_in_either_spelling_of_its_name(tmp_path, photos):
    """Some systems write an ü as one character, others as two."""
    one, two = (unicodedata.normalize(form, "Fühler") for form in ("NFC", "NFD"))
    assert one != two
    split_by_hand(photos)
    (photos / "test" / "class c").rename(photos / "test" / one)
    with pytest.raises(BadInput, match="was trained on"):
        made(photos).refuse_trained_classes({"classes": {"train": [two]}})
    (photos / "train" / "class a").rename(photos / "train" / two)
    with pytest.raises(BadInput, match="is in the train and the test split: keep it in one"):
        made(photos)


def test_the_store_alone_is_opened_by_workers(photos):
    """A selection of classes survives the trip to a worker process."""
    split_by_hand(photos)
    (photos / "train" / "class a" / "0.jpg").unlink()
    store = made(photos, skip_small_classes=True).stores["train"]
    again = pickle.loads(pickle.dumps(store))
    assert again.class_names == store.class_names == ["class d", "class g"]
    assert np.array_equal(again.class_starts, store.class_starts) and np.array_equal(again.images, store.images)
    assert isinstance(again, ImageStore)


@pytest.mark.parametrize(
    "more", [[], ["--support_samples=5"], ["--lit_model_class=LitProtoNet", "--support_samples=5"]]
)
def test_the_protocol_fits_two_dozen_classes_of_twenty_pictures(tmp_path, more):
    for i, j in itertools.product(range(24), range(20)):
        path = tmp_path / f"class {i}" / f"{j}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (i, j, 0)).save(path)
    flags = ["--data_class=ImageFolders", f"--data_dir={tmp_path}", "--model_class=Conv4", "--image_size=84"]
    data, lit_model = parse([*flags, "--class_split=0.64,0.16,0.20", "--skip_bad_images", *more], "").build()
    assert {split: len(names) for split, names in classes_of(data).items()} == {"train": 14, "val": 5, "test": 5}
    shots = data.support_samples
    assert (data.ways("train"), data.ways("test"), data.queries("train"), data.queries("test")) == (5, 5, 5, 5)
    # The authors' bound of 10 is for the sum over a task's samples, divided by the shots.
    assert lit_model.gradient_clip_val == (None if "Proto" in str(more) else pytest.approx(10 * shots / (5 * 5)))
    assert lit_model.model(torch.zeros(1, *data.input_shape)).shape[0] == 1


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    write_random_class_folders(tmp_path, classes=5, images=6)
    (tmp_path / "train" / "gone").symlink_to("nowhere")
    with pytest.raises(BadInput, match=r"gone \(a link that leads nowhere\)"):
        ImageFolders(data_dir=str(tmp_path), image_size=16, query_samples=2, test_query_samples=2).prepare_data()


def test_a_relative_folder_that_is_not_there_is_named_with_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=f"data_dir=photos does not exist in {re.escape(str(tmp_path))}"):
        ImageFolders(data_dir="photos").prepare_data()
