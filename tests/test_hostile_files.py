"""What others wrote, and is broken or means harm: one sentence that names the file, no wait, and bounded memory."""

import io
import json
import os
import pickle
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import few_shot
from few_shot import limits
from few_shot.data import ImageFolders, MiniImagenet, mini_imagenet, omniglot, safe_pickle, tiered_imagenet
from few_shot.data.class_folders import scan, stat
from few_shot.data.image_store import ImageStore, read_manifest
from few_shot.data.pictures import BadPicture, decode, preprocessing, read_pictures
from few_shot.errors import BadInput
from few_shot.models import Conv4, SinusoidMLP
from few_shot.models.pretrained import read_weights
from few_shot.pickles import check
from few_shot.samples import Inputs, encode

HOW = preprocessing((3, 8, 8), crop="center")


def photos(root, classes=6, pictures=3):
    """So many class folders of small pictures."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(pictures):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(root / f"class{c}" / f"{i}.png")
    return root


def folders(root, **more):
    return ImageFolders(str(root), image_size=8, episode_classes=2, query_samples=1, test_query_samples=1, **more)


# Folders.


@pytest.mark.parametrize("kind", ["pipe", "loop", "broken"])
def test_a_pipe_and_links_that_lead_nowhere_are_no_pictures(tmp_path, kind):
    path = photos(tmp_path) / "class0" / "x.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("x.jpg" if kind == "loop" else "nowhere.jpg")
    with pytest.raises(BadInput, match=r"1 file or folder is no pictures of a class: .*x\.jpg \("):
        folders(tmp_path).build_store()
    assert folders(tmp_path, skip_bad_images=True).build_store().is_dir()
    with pytest.raises(BadPicture, match=r"x\.jpg cannot be read"):
        read_pictures(path, HOW)


def test_links_in_a_circle_are_no_classes(tmp_path):
    (photos(tmp_path) / "circle").symlink_to("circle")
    assert folders(tmp_path).build_store().is_dir()
    assert [entry.name for entry in scan(tmp_path) if entry.is_folder] == [f"class{c}" for c in range(6)]


def test_a_folder_that_may_be_listed_but_not_entered_is_named(tmp_path, monkeypatch):
    """As root every folder may be entered: the system's answer to others is put in its place."""
    photos(tmp_path)

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    entry = scan(tmp_path / "class0")[0]
    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "lstat", refuse)
    with pytest.raises(BadInput, match=r"class0/0\.png cannot be read \(Permission denied\)"):
        stat(entry)


def test_a_class_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    photos(tmp_path)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "class3":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BadInput, match=r"class3 cannot be read as a folder \(Permission denied\)"):
        folders(tmp_path).build_store()


def test_a_pipe_for_a_table_is_named(tmp_path):
    os.mkfifo(tmp_path / "train.csv")
    with pytest.raises(BadInput, match=r"train\.csv is no table"):
        mini_imagenet._read_table(tmp_path / "train.csv")


# Pictures.


def png_of_nothing(width, height):
    """A whole PNG file, of one colour: a few kB, however large the picture is."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(b"\0" * (width // 8 + 1)) for _ in range(height)) + rows.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(13_000, 13_000), (20_000, 20_000)])  # Pillow itself refuses the second
def test_too_many_pixels_are_refused_before_they_are_decoded(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadPicture, match=r"^x cannot be decoded.*pixels.*89 million is the most, or 250 million"):
        decode(png_of_nothing(*size), "x", HOW)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; decoded, it is 676 MB


def test_a_side_that_is_too_long_is_refused():
    with pytest.raises(BadPicture, match=r"80000 pixels long, and 65535 is the most"):
        decode(png_of_nothing(80_000, 8), "x", HOW)


def test_a_phones_largest_photo_is_read_in_little_memory():
    file = io.BytesIO()
    Image.new("L", (16_384, 12_288), 77).save(file, "JPEG")  # 201 million pixels
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (decode(file.getvalue(), "x", HOW) == 77).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_picture_in_strips_is_the_picture_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    for picture in (
        Image.fromarray(rng.integers(0, 256, (60, 40, 4), dtype=np.uint8), "RGBA"),
        Image.fromarray(rng.integers(0, 65536, (60, 40), dtype=np.uint16)),
    ):
        whole = read_pictures(picture, HOW)
        monkeypatch.setattr(few_shot.data.pictures, "_STRIP", 300)
        assert np.array_equal(read_pictures(picture, HOW), whole)
        monkeypatch.undo()


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "x.jpg", "wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(BadPicture, match=r"it has 3 GB, and 512 MB is the most"):
        read_pictures(tmp_path / "x.jpg", HOW)


@pytest.mark.parametrize("error", [RuntimeError, KeyError, TypeError, MemoryError])
def test_whatever_pillow_raises_at_a_damaged_file_is_a_bad_picture(error, monkeypatch):
    """A damaged AVIF file is a RuntimeError to Pillow."""

    def refuse(self):
        raise error("frame 0")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    with pytest.raises(BadPicture, match=r"x cannot be decoded as an image \(.*frame 0"):
        decode(png_of_nothing(8, 8), "x", HOW)


def test_eps_is_a_program_and_no_picture():
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "EPS")
    with pytest.raises(BadPicture, match="no format that Pillow reads"):
        decode(file.getvalue(), "x", HOW)


def test_a_picture_that_is_handed_over_is_not_changed():
    turned = Image.Exif()
    turned[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).resize((9, 5)).save(file, "PNG", exif=turned)
    picture = Image.open(file)
    before = np.asarray(picture)
    read_pictures(picture, HOW)
    assert picture.size == (9, 5) and np.array_equal(np.asarray(picture), before)


# Pickles.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x01s.", "more than 100 deep"),  # ends the process without it
        (b"\x80\x02]r\xff\xff\xff\x7f.", "the number 2147483647, and has fewer objects"),  # takes 17 GB without it
        (b"\x80\x05\x8e" + struct.pack("<Q", 1 << 40) + b"ab.", "cut off"),
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"].", "more than 4 GB"),
        (b"\x80\x02]h\x07.", "not there"),
        (b"", "no pickle has what is at byte 0"),
        (b"cos\nsystem\n(S'true'\ntR.", "it names os.system"),
        (b"\x80\x04]", "byte 3"),
        (pickle.dumps({"a": np.zeros(3, "M8[s]")}), "array of 'M8"),
    ],
)
def test_a_pickle_that_would_take_the_memory_or_the_process_is_refused(content, reason):
    with pytest.raises(BadInput, match=f"x is no pickle of plain data .*{reason}"):
        safe_pickle.load(io.BytesIO(content), "x")


def test_the_bounds_leave_room_for_the_published_pickles(tmp_path):
    """mini-ImageNet's largest has 38 400 pictures and their rows in lists; Python 2 wrote it with a name for each."""
    assert limits.PICKLE_BYTES > 2.4e9
    content = {"class_dict": {f"n{c}": list(range(600 * c, 600 * c + 600)) for c in range(64)}}
    for protocol in (0, 2, 5):
        file = io.BytesIO(pickle.dumps(content, protocol) + b"next")
        check(file)
        assert file.read() == b"next"
    labels = 448_695  # of tieredImageNet
    assert 10 * labels < limits.PICKLE_OBJECTS


def test_only_what_a_pickle_may_hold_is_left_of_an_arrays_type():
    """NumPy believes a pickled type's own word on its size and fields; ours takes the order of bytes alone."""

    class Crooked:
        def __reduce__(self):
            return np.dtype, ("u1", False, True), (3, ">", (np.dtype("u1"), (1 << 40,)), None, None, -1, -1, 0)

    class Array:
        def __reduce__(self):
            return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (3,), Crooked(), False, b"abc")

    loaded = safe_pickle.load(io.BytesIO(pickle.dumps(Array(), 2)), "x")
    assert loaded.dtype == np.uint8 and loaded.tolist() == [97, 98, 99]


@pytest.mark.parametrize("rows", [[0.0, 1.0], [2**70], ["0"], [[0]], [-1], [True], None, [np.nan]])
def test_rows_that_are_no_whole_numbers_are_refused(rows):
    content = {"image_data": np.zeros((2, 84, 84, 3), np.uint8), "class_dict": {"a": rows}}
    with pytest.raises(BadInput, match="x does not hold image_data"):
        mini_imagenet._read_pickle(io.BytesIO(pickle.dumps(content)), "x")


@pytest.mark.parametrize("labels", [[2**70], [0.0], [[0]], "a", {"a": 1}])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path, labels):
    data = pickle.dumps({"label_specific": labels, "label_specific_str": ["a"]})
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BadInput, match="does not hold label_specific"):
        tiered_imagenet._read_labels(tiered_imagenet.Part(tmp_path / "x", "x", 0, len(data)))


@pytest.mark.parametrize("y", [None, [1, None], [[1], [2, 3]], {"a": 1}])
def test_labels_of_ones_own_that_cannot_be_used_are_refused(y):
    with pytest.raises(BadInput, match="label"):
        encode(y, None)


# Archives.


def drawings(path, method=zipfile.ZIP_STORED, size=None):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("images_background/A/character01/01.png", b"\0" * (size or 10))
    return path


@pytest.mark.parametrize(("at", "bits"), [(6, b"\x01\x00"), (8, b"\x09\x00")], ids=["encrypted", "deflate64"])
def test_an_archive_that_cannot_be_unpacked_is_named(tmp_path, at, bits):
    path = drawings(tmp_path / "images_background.zip")
    data = bytearray(path.read_bytes())
    data[at : at + 2] = bits  # in the member's own head, and in the list of members
    central = data.index(b"PK\x01\x02")
    data[central + at + 2 : central + at + 4] = bits
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"images_background\.zip cannot be read"):
        omniglot._read_half(path, 1)


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "ARCHIVE_BYTES", 1 << 20)
    path = drawings(tmp_path / "images_background.zip", zipfile.ZIP_DEFLATED, size=2 << 20)
    assert path.stat().st_size < 10_000
    with pytest.raises(BadInput, match=r"it unpacks to 2 MB, and 1 MB is the most"):
        omniglot._read_half(path, 1)


# Stores.


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return folders(photos(tmp_path_factory.mktemp("store"))).build_store()


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy(np.zeros((6, 3, 8, 8), np.float32)),
        npy(np.array([None]), allow_pickle=True),
        npy(np.zeros((6, 3, 8, 8), np.uint8))[:-1],
        npy(np.zeros((6, 3, 8, 8), np.uint8)).replace(b"(6, 3", b"(9, 3"),
        b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000,
        b"PK\x03\x04",
    ],
)
def test_an_empty_or_foreign_array_is_no_store(store, tmp_path, content):
    (tmp_path / "manifest.json").write_bytes((store / "manifest.json").read_bytes())
    (tmp_path / "test.npy").write_bytes(content)
    with pytest.raises(BadInput, match=r"holds no usable test images \(.*\): delete it"):
        ImageStore.open(tmp_path, "test")


@pytest.mark.parametrize(
    "change",
    [
        {"splits": None},
        {"splits": {"train": {}}},
        {"image_shape": [3, 8]},
        {"image_shape": [3, 8, 2**70]},
        {"image_shape": "383"},
        {"source": ...},
        {"preprocessing": ...},
        {"left_out": 3},
    ],
)
def test_a_manifest_without_its_keys_is_damaged_and_the_store_is_built_again(store, change):
    path = store / "manifest.json"
    whole = path.read_bytes()
    manifest = json.loads(whole) | change
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not ...}))
    try:
        with pytest.raises(ValueError, match="its manifest is damaged"):
            read_manifest(store)
        folders(store.parents[1]).build_store()
        assert json.loads(path.read_bytes()) == json.loads(whole)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b"{}", b"3", b""])
def test_a_manifest_that_is_none_is_damaged(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BadInput, match="holds no usable train images"):
        ImageStore.open(tmp_path, "train")


# Checkpoints.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "x.ckpt"
    few_shot.MAML(SinusoidMLP(width=4)).save(path)
    return path


def changed(checkpoint, tmp_path, change):
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("state_dict"), "holds no weights by their names"),
        (lambda c: c.update(state_dict=[1]), "holds no weights by their names"),
        (lambda c: c.update(state_dict={"a": 3}), "holds no weights by their names"),
        (lambda c: c.update(state_dict={"a": torch.zeros(1).expand(10**12)}), "holds no weights by their names"),
        (lambda c: c.update(few_shot=3), "is damaged: it does not say how to build"),
        (lambda c: c["few_shot"].pop("model"), "is damaged"),
        (lambda c: c["few_shot"]["learner"].pop("arguments"), "is damaged"),
        (lambda c: c["few_shot"].update(data={"classes": [1]}), "is damaged"),
        (lambda c: c["few_shot"]["learner"].update({"class": "this.X"}), r"holds a this\.X, which is not of this"),
        (lambda c: c["few_shot"]["learner"].update({"class": "few_shot.no.X"}), "this version does not have"),
        (lambda c: c["few_shot"]["model"].update({"class": "os.system"}), "give model="),
        (lambda c: c["few_shot"]["model"].update({"class": "few_shot.metrics.Metric"}), "and that is none"),
        (lambda c: c["few_shot"]["learner"]["arguments"].update(loss="os.system"), r"loss=os\.system, which is not"),
        (lambda c: c["few_shot"]["learner"]["arguments"].update(loss=3), "does not fit LitMAML's constructor"),
        (lambda c: c["few_shot"]["learner"]["arguments"].update(inner_lr="fast"), "does not fit LitMAML's constructor"),
        (lambda c: c["few_shot"]["model"]["arguments"].update(width=10**6), "that it names has"),
        (lambda c: c["few_shot"]["model"]["arguments"].update(width="wide"), "does not fit SinusoidMLP's constructor"),
    ],
)
def test_a_checkpoint_that_is_damaged_or_names_strangers_is_refused(checkpoint, tmp_path, capsys, change, reason):
    with pytest.raises(BadInput, match=reason):
        few_shot.load(changed(checkpoint, tmp_path, change))
    assert "Zen of Python" not in capsys.readouterr().out  # what importing `this` prints


def rezipped(checkpoint, path, method=zipfile.ZIP_STORED, data=None, twice=False):
    """The same checkpoint, packed in another way or with another pickle in it."""
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(path, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, data if data is not None and name.endswith("data.pkl") else old.read(name))
        if twice:
            new.writestr(name, b"")
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_checkpoint_that_unpacks_to_more_than_it_is_or_would_crash_the_loader_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1_000_000)}}, tmp_path / "zeros.ckpt")
    few_kb = rezipped(tmp_path / "zeros.ckpt", tmp_path / "bomb.ckpt", zipfile.ZIP_DEFLATED)
    assert few_kb.stat().st_size < 20_000
    deep = b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x01s."
    for path, reason in (
        (few_kb, "it unpacks to 3.81 MB, which is more than its own"),
        (rezipped(tmp_path / "zeros.ckpt", tmp_path / "twice.ckpt", twice=True), "it holds a file twice"),
        (rezipped(tmp_path / "zeros.ckpt", tmp_path / "deep.ckpt", data=deep), "it holds objects more than 100 deep"),
    ):
        with pytest.raises(BadInput, match=rf"{path.name} is no checkpoint \({reason}"):
            few_shot.load(path)
        with pytest.raises(BadInput, match=reason):
            read_weights(str(path))


def test_a_pipe_for_a_checkpoint_or_weights_does_not_hang(tmp_path):
    for name in ("x.ckpt", "x.safetensors"):
        os.mkfifo(tmp_path / name)
        for read in (few_shot.load, lambda path: read_weights(str(path))):
            with pytest.raises(BadInput, match="it is a pipe, a socket or a device, not a file"):
                read(tmp_path / name)


def test_weights_of_the_old_format_are_still_read(tmp_path):
    state = Conv4((3, 16, 16), 5, width=2).state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert all(torch.equal(state[name], value) for name, value in read_weights(str(tmp_path / "old.pth")).items())


@pytest.mark.parametrize(
    "change",
    [{"image_size": 10**9}, {"image_size": "x"}, {"channels": 7}, {"resample": "x"}, {"scale": 0}, {"binary_from": -1}],
)
def test_what_a_checkpoint_says_of_pictures_is_checked(change):
    with pytest.raises(BadInput, match="what the checkpoint says of them is damaged"):
        Inputs((3, 8, 8), HOW | change)
    with pytest.raises(BadInput, match="what the checkpoint says is damaged"):
        Inputs((3, "8"), None)


# Arguments.


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800", "x" * 5000, "~nouser/x"])
def test_what_is_no_path_is_one_sentence(path):
    for argument, use in (
        ("data_dir", lambda: MiniImagenet(data_dir=path)),
        ("weights", lambda: read_weights(path)),
        ("checkpoint", lambda: few_shot.load(path)),
    ):
        with pytest.raises(BadInput, match=rf"^{argument}=.* is no path \(.*\)\.$") as error:
            use()
        assert len(str(error.value)) < 250


def test_a_number_that_is_too_large_is_named():
    with pytest.raises(BadInput, match=r"batch_size=10{20} is too large: 4294967295 is the most"):
        few_shot.Sinusoid(batch_size=10**20)
