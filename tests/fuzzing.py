"""Drives every reader of what others wrote with files that are nearly right, and says how many it tried.

python tests/fuzzing.py --seconds=600    or    make fuzz SECONDS=600

A reader may refuse an input with BadInput, and must then say so in one sentence. Anything else is a finding: another
exception, a minute of time, a gigabyte of memory. ``tests/test_fuzzing.py`` is the short form.
"""

import argparse
import io
import json
import os
import pickle
import resource
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TQDM_DISABLE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from few_shot import ProtoNet, load
from few_shot.checkpoint import describe
from few_shot.data import ImageFolders, cifar100, cub, mini_imagenet, omniglot, safe_pickle, tiered_imagenet
from few_shot.data.image_store import ImageStore, ensure_store, read_manifest
from few_shot.data.pictures import decode, preprocessing, read_pictures
from few_shot.errors import BadInput
from few_shot.models import Conv4
from few_shot.models.pretrained import read_weights
from few_shot.samples import Inputs, encode
from training.command_line import parse, parse_options
from training.picture_lists import labelled_pictures, listed_pictures
from training.predict import LabelOptions
from training.run_folder import read_checkpoint
from training.settings import read_settings

SECONDS, BYTES = 60, 1 << 30  # that one input may take


class Reader(NamedTuple):
    """What reads, and what it is given: ``drive(folder, input)``, where the folder is empty."""

    inputs: st.SearchStrategy
    drive: Callable[[Path, object], object]


# Inputs that are nearly right.

_PLACES = st.one_of(st.integers(0, 400), st.integers(-400, -1), st.integers(0, 1 << 20))
_BYTES = st.one_of(
    st.binary(max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff", b"-1", b"9" * 30])
)


@st.composite
def mutated(draw, valid):
    """One of some valid files, with bytes overwritten, put in, taken away, repeated, or cut off; or as it is."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(_PLACES) % max(1, len(data))
        new = draw(_BYTES)
        kind = draw(st.sampled_from(["over", "over", "over", "in", "out", "again", "flip", "cut"]))
        if kind == "over":
            data[at : at + len(new)] = new
        elif kind == "in":
            data[at:at] = new
        elif kind == "out":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "again":
            data[at:at] = data[at : at + draw(st.integers(1, 200))]
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
    return bytes(data)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["", "../../x", "~nouser", "a\0b", "\ud800", "x" * 5000, "os.system", "this.X", "few_shot.x.Y"]),
    st.binary(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def changed(draw, content):
    """Plain content in which values have been taken away or replaced by others, at any depth."""
    content = pickle.loads(pickle.dumps(content))
    for _ in range(draw(st.integers(0, 3))):
        part = content
        for _ in range(20):
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(part[key], dict | list) and draw(st.booleans()):
                part = part[key]
                continue
            if draw(st.booleans()):
                part[key] = draw(VALUES)
            else:
                del part[key]
            break
    return content


# Valid files.


def _bytes(write, *args, **kwargs):
    file = io.BytesIO()
    write(file, *args, **kwargs)
    return file.getvalue()


@cache
def pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = [(colour, f, {}) for f in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX", "DDS")]
    kinds += [(colour, f, {}) for f in ("SGI", "IM", "MSP", "XBM", "JPEG2000", "AVIF", "ICNS", "EPS", "PDF", "QOI")]
    kinds += [(colour.convert(mode), "PNG", {}) for mode in ("L", "LA", "RGBA", "P", "1", "I;16")]
    kinds += [(colour.convert(mode), "TIFF", {}) for mode in ("F", "I", "CMYK", "RGBA", "YCbCr", "LAB")]
    kinds += [(colour, "TIFF", {"compression": c}) for c in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")]
    kinds += [
        (colour, "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "JPEG", {"exif": turned}),
    ]
    kinds += [(colour, "PNG", {"exif": turned}), (colour.resize((200, 160)), "JPEG", {})]
    kinds += [(colour, f, {"save_all": True, "append_images": [colour]}) for f in ("GIF", "PNG", "WEBP", "TIFF", "MPO")]
    found = []
    for image, kind, options in kinds:
        try:
            found.append(_bytes(image.save, kind, **options))
        except (OSError, KeyError, ValueError):  # not in this Pillow, or not in this mode
            continue
    return found


@cache
def pickles_of(kind):
    n = 2
    content = {
        "mini": {"image_data": np.zeros((n, 84, 84, 3), np.uint8), "class_dict": {"a": [0], "b": np.array([1])}},
        "labels": {"label_specific": np.arange(n), "label_specific_str": ["a", "b"]},
        "list labels": {"label_specific": [0, 1], "label_specific_str": np.array(["a", "b"], object)},
        "pngs": [np.frombuffer(pictures()[0], np.uint8), pictures()[0], bytearray(pictures()[0])],
        "meta": {"fine_label_names": [f"c{i}" for i in range(100)]},
        "train": {"data": np.zeros((100, 3072), np.uint8), "fine_labels": list(range(100)), "x": np.float32(1)},
    }[kind]
    return [pickle.dumps(content, protocol) for protocol in range(6)]


#: Operations of pickles, to be put together in any order.
OPERATIONS = [
    *(b"()]}l d t . 0 1 2 N Q R a b e s u o \x85 \x86 \x87 \x88 \x89 \x8f \x90 \x91 \x92 \x93 \x94".split(b" ")),
    *(b"K\x01", b"J\xff\xff\xff\x7f", b"q\x00", b"h\x00", b"r\xff\xff\xff\x7f", b"j\x00\x00\x00\x00", b"p9999999\n"),
    *(b"X\x01\x00\x00\x00a", b"B\xff\xff\xff\x7fab", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x96" + b"\0" * 8),
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"\x80\x05"),
    *(b"cnumpy.core.multiarray\nscalar\n", b"cnumpy.core.numeric\n_frombuffer\n", b"c_codecs\nencode\n"),
    *(b"\x85" * 5000, b"]" * 5000, b"X\x02\x00\x00\x00u1", b"X\x02\x00\x00\x00O8", b"C\x02ab", b"\x95" + b"\xff" * 8),
    *(b"I9999999999999999999999\n", b"F1e999\n", b"L" + b"9" * 5000 + b"L\n", b"S'a'\n", b"\x8a\xff" + b"\xff" * 255),
]


@cache
def archives(kind):
    png = pictures()[0]
    names = [f"{half}/Alphabet/character0{c}/{i:02}.png" for half in ("images_x",) for c in (1, 2) for i in range(20)]
    if kind == "zip":
        found = []
        for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", how) as z:
                for name in names:
                    z.writestr(name, png)
            found.append(file.getvalue())
        return found
    members = {
        "cifar": {
            f"cifar-100-python/{k}": pickles_of("meta" if k == "meta" else "train")[2]
            for k in ("meta", "train", "test")
        },
        "cub": {f"CUB_200_2011/images/001.A/{i}.jpg": pictures()[i] for i in range(3)},
    }[kind]
    found = []
    for mode in ("w:", "w:gz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        found.append(file.getvalue())
    return found


MANIFEST = {
    "version": 2,
    "name": "x",
    "image_shape": [3, 4, 4],
    "preprocessing": None,
    "source": {"form": "x"},
    "splits": {s: {"class_names": ["a", "b"], "class_sizes": [2, 1]} for s in ("train", "val", "test")},
    "left_out": [],
}


@cache
def npy():
    return [
        _bytes(np.save, np.zeros((3, 3, 4, 4), np.uint8)),
        _bytes(np.save, np.zeros(3)),
        _bytes(np.savez, np.zeros(3)),
    ]


@cache
def learner():
    torch.manual_seed(0)
    return ProtoNet(Conv4((3, 16, 16), 5, width=2)).lit_model


def checkpoint():
    """The content of a run's, without its weights: those are put in by :func:`write_checkpoint`."""
    facts = describe(learner())
    facts["data"] = {"class": "few_shot.data.image_folders.ImageFolders", "input_shape": [3, 16, 16]}
    facts["data"] |= {"preprocessing": dict(preprocessing((3, 16, 16))), "classes": {"train": ["a"], "test": ["b"]}}
    config = {"data_class": "ImageFolders", "model_class": "Conv4", "lit_model_class": "LitProtoNet", "loss": None}
    config |= {"width": 2, "data_dir": "x", "episode_classes": 5, "seed": 0}
    return {
        "few_shot": facts,
        "config": config,
        "global_step": 1,
        "state_dict": None,
        "callbacks": {"a": {"monitor": "x"}},
    }


def write_checkpoint(path, content):
    if isinstance(content, dict) and content.get("state_dict", 1) is None:
        content = content | {"state_dict": learner().state_dict()}
    torch.save(content, path)


@cache
def saved(kind):
    folder = Path(tempfile.mkdtemp())
    state = learner().state_dict()
    if kind == "checkpoint":
        write_checkpoint(folder / "x", checkpoint())
    elif kind == "safetensors":
        save_file(
            {k: v.contiguous() for k, v in state.items()}, folder / "x", {"few_shot": json.dumps(describe(learner()))}
        )
    else:
        torch.save(state, folder / "x", _use_new_zipfile_serialization=kind == "zip")
    return (folder / "x").read_bytes()


def data_of(archive):
    """The pickle in what torch.save wrote."""
    with zipfile.ZipFile(io.BytesIO(archive)) as z:
        return next(z.read(name) for name in z.namelist() if name.endswith("data.pkl"))


def with_data(archive, data):
    """The same file with another pickle in it, whose checksum is right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


# Readers.

HOWS = [preprocessing((3, 8, 8), crop="center"), preprocessing((1, 6, 9), binary_from=12, invert=True)]


def _written(folder, data, name="x"):
    path = folder / name
    path.write_bytes(data)
    return path


def drive_picture(folder, data):
    for how in HOWS:
        decode(data, "x", how)


def drive_array(folder, picture):
    read_pictures(picture, HOWS[0])


def drive_store(folder, input):
    manifest, array = input
    store = folder / ".few_shot" / "x"
    store.mkdir(parents=True)
    (store / "manifest.json").write_bytes(
        manifest if isinstance(manifest, bytes) else json.dumps(manifest, default=repr).encode()
    )
    for split in ("train", "val", "test"):
        (store / f"{split}.npy").write_bytes(array)
    try:
        read_manifest(store)
    except (OSError, ValueError):  # as it says
        pass
    opened = ImageStore.open(store, "train")
    opened.gather(torch.arange(len(opened.images)))
    opened.first(1)

    def download():
        raise BadInput("nothing to download")

    ensure_store(folder, "x", (3, 4, 4), lambda: None, download)


@st.composite
def trees(draw):
    """What may lie in a folder of pictures: (path, kind, content)."""
    name = st.sampled_from(
        ["train", "val", "Test", "a", "b", "c", "x.jpg", "y.png", "images", "train.csv", "e\udcff", ".x"]
    )
    kind = st.sampled_from(["file", "file", "file", "text", "folder", "pipe", "loop", "broken", "up"])
    content = st.sampled_from(pictures()[:3])
    paths = st.lists(st.tuples(st.lists(name, min_size=1, max_size=4), kind, content), max_size=14)
    return draw(paths)


def grow(folder, tree):
    for names, kind, content in tree:
        path = folder.joinpath(*names)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind in ("file", "text"):
                path.write_bytes(content if kind == "file" else b"filename,label\nx.jpg,a\n")
            elif kind == "folder":
                path.mkdir()
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to({"loop": path.name, "broken": "nowhere", "up": ".."}[kind])
        except OSError:  # something is there already
            continue
    return folder


def drive_folders(folder, tree):
    grow(folder, tree)
    data = ImageFolders(
        str(folder), image_size=4, episode_classes=2, query_samples=1, test_query_samples=1, skip_bad_images=True
    )
    attempts = [data.build_store, lambda: labelled_pictures(folder), lambda: listed_pictures([str(folder)])]
    attempts += [
        lambda m=m: m(folder) for m in (mini_imagenet.find_mini_imagenet, cub.find_cub, omniglot.find_omniglot)
    ]
    for attempt in attempts:
        try:
            attempt()
        except BadInput:
            continue


def drive_table(folder, data):
    mini_imagenet._read_table(_written(folder, data))


def drive_mini(folder, data):
    mini_imagenet._read_pickle(io.BytesIO(data), "x")


def drive_pickle(folder, data):
    safe_pickle.load(io.BytesIO(data), "x")


def drive_labels(folder, data):
    path = _written(folder, data)
    tiered_imagenet._read_labels(tiered_imagenet.Part(path, "x", 0, len(data)))


def drive_pngs(folder, data):
    path = _written(folder, data)
    places, _ = tiered_imagenet.find_pngs(tiered_imagenet.Part(path, "x", 0, len(data)))
    assert (places.sum(1) <= len(data)).all()


def drive_cifar(folder, parts):
    contents = {name: safe_pickle.load(io.BytesIO(data), name) for name, data in parts.items()}
    cifar100._by_class(contents, folder)


def drive_zip(folder, data):
    omniglot._read_half(_written(folder, data), 2)


def drive_tar(folder, data):
    path = _written(folder, data)
    for read in (cifar100._read_archive, lambda p: list(cub._pictures(p))):
        try:
            read(path)
        except BadInput:
            continue


def drive_checkpoint(folder, content):
    path = folder / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_checkpoint(path, content)
    for read in (load, lambda p: read_checkpoint(p, "resume"), lambda p: parse([f"--resume={p}"], "fuzz")):
        try:
            found = read(path)
            if read is load:
                x = found.read([Image.new("RGB", (9, 9))] * 2)
                found.adapt(x, ["a", "b"]).predict(x)
        except BadInput:
            continue


def drive_safetensors(folder, data):
    for name, read in (("x.safetensors", load), ("y.safetensors", lambda p: read_weights(str(p)))):
        try:
            read(_written(folder, data, name))
        except BadInput:
            continue


def drive_weights(folder, data):
    read_weights(str(_written(folder, data, "x.pt")))


def drive_config(folder, data):
    read_settings(_written(folder, data), "x")


FLAGS = ["data_class", "model_class", "lit_model_class", "loss", "config", "resume", "data_dir", "gpus", "batch_size"]
FLAGS += [
    "episode_classes",
    "support_samples",
    "seed",
    "width",
    "inner_lr",
    "max_steps",
    "precision",
    "strategy",
    "log_dir",
]
FLAG_VALUES = [
    "Sinusoid",
    "LitMAML",
    "mse_loss",
    "9" * 20,
    "-1",
    "nan",
    "[1, 2]",
    "{a: 1}",
    "&a [*a]",
    "null",
    "../../x",
    "1e999",
]
flags = st.lists(
    st.tuples(st.sampled_from(FLAGS), st.sampled_from(FLAG_VALUES) | SCALARS.map(str) | st.text(max_size=8)), max_size=4
)


def drive_flags(folder, given):
    argv = [f"--{flag}={value}" for flag, value in given]
    try:
        parse(["--data_class=Sinusoid", *argv], "fuzz").modules()
    except (BadInput, SystemExit):
        pass
    flags = ("checkpoint", "support", "images", "output", "steps")
    try:
        parse_options([f"--{flags[i % 5]}={value}" for i, (_, value) in enumerate(given)], "fuzz", LabelOptions)
    except SystemExit:
        pass


def drive_paths(folder, text):
    for read in (
        load,
        lambda p: read_weights(p),
        lambda p: read_checkpoint(p, "resume"),
        lambda p: ImageFolders(p).build_store(),
        lambda p: read_pictures(p, HOWS[0]),
        lambda p: labelled_pictures(p),
        lambda p: listed_pictures([p]),
        lambda p: parse([f"--config={p}"], "fuzz"),
    ):
        try:
            read(text)
        except BadInput:
            continue


def drive_samples(folder, input):
    x, y = input
    for how, shape in ((None, (1,)), (None, None), (HOWS[0], (3, 8, 8))):
        for attempt in (
            lambda h=how, s=shape: Inputs(s, h).tensor(x, torch.zeros(1)),
            lambda: encode(y, None),
            lambda: encode(y, False),
        ):
            try:
                attempt()
            except BadInput:
                continue


ARRAYS = st.one_of(
    VALUES,
    st.lists(VALUES, max_size=3),
    st.builds(
        lambda kind, shape: np.zeros(shape, kind),
        st.sampled_from(["u1", "i8", "u2", "f2", "f8", "c8", "?", "O", "U3", "S2", "M8[s]"]),
        st.lists(st.integers(0, 5), max_size=5),
    ),
    st.builds(
        lambda kind, shape: torch.zeros(shape, dtype=kind),
        st.sampled_from([torch.uint8, torch.int64, torch.bfloat16, torch.float64, torch.complex64, torch.bool]),
        st.lists(st.integers(0, 5), max_size=5),
    ),
)

READERS = {
    "pictures": Reader(mutated(pictures()), drive_picture),
    "arrays": Reader(ARRAYS, drive_array),
    "class folders": Reader(trees(), drive_folders),
    "CSV": Reader(
        mutated([b"filename,label\n" + b"".join(b"%d.jpg,c%d\n" % (i, i % 3) for i in range(20))]), drive_table
    ),
    "pickles": Reader(
        st.lists(st.sampled_from(OPERATIONS), max_size=30).map(b"".join) | mutated(pickles_of("labels")), drive_pickle
    ),
    "mini-ImageNet pickles": Reader(mutated(pickles_of("mini")), drive_mini),
    "tieredImageNet labels": Reader(mutated(pickles_of("labels") + pickles_of("list labels")), drive_labels),
    "tieredImageNet images": Reader(mutated(pickles_of("pngs")), drive_pngs),
    "CIFAR-100 pickles": Reader(
        st.fixed_dictionaries(
            {p: mutated(pickles_of("meta" if p == "meta" else "train")) for p in ("meta", "train", "test")}
        ),
        drive_cifar,
    ),
    "zip archives": Reader(mutated(archives("zip")), drive_zip),
    "tar archives": Reader(mutated(archives("cifar") + archives("cub")), drive_tar),
    "stores": Reader(
        st.tuples(changed(MANIFEST) | mutated([json.dumps(MANIFEST).encode()]), st.just(npy()[0]) | mutated(npy())),
        drive_store,
    ),
    "configs": Reader(
        mutated([b"data_class: Sinusoid\nwidth: 3\nx: [1, 2]\nresume: null\n", b"&a [*a, *a]", b"[" * 200, b"{" * 200]),
        drive_config,
    ),
    "checkpoints": Reader(
        changed(checkpoint())
        | mutated([saved("checkpoint")])
        | mutated([data_of(saved("checkpoint"))]).map(lambda data: with_data(saved("checkpoint"), data)),
        drive_checkpoint,
    ),
    "safetensors": Reader(mutated([saved("safetensors")]), drive_safetensors),
    "weights": Reader(
        mutated([saved("zip"), saved("old")])
        | mutated([data_of(saved("zip"))]).map(lambda data: with_data(saved("zip"), data)),
        drive_weights,
    ),
    "flags": Reader(flags, drive_flags),
    "paths": Reader(st.text() | SCALARS.filter(lambda x: isinstance(x, str)), drive_paths),
    "samples": Reader(st.tuples(ARRAYS, ARRAYS), drive_samples),
}


# Running.


class TooMuch(Exception):
    """An input took more time or memory than it may."""


@contextmanager
def bounded():
    """Raise TooMuch if what is done in here takes too long, or too much memory."""

    def too_slow(*_):
        raise TooMuch(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(SECONDS)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024 > BYTES:
        raise TooMuch(f"more than {BYTES} bytes")


def fuzz(name, examples, derandomize=False):
    """Drive a reader with so many inputs; returns how many there were, or raises what it must not."""
    reader, tried = READERS[name], 0
    phases = (Phase.generate, Phase.shrink) if derandomize else (Phase.generate,)

    @settings(
        max_examples=examples,
        derandomize=derandomize,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(reader.inputs)
    def run(input):
        nonlocal tried
        tried += 1
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), bounded():
            warnings.simplefilter("ignore")
            try:
                reader.drive(Path(folder), input)
            except BadInput as error:
                assert len(str(error)) < 10_000, "a sentence, not a book"

    run()
    return tried


def report(error):
    """What a reader must not have raised, where, and at which input."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.format_tb(error.__traceback__)[-6:]
    notes = "\n".join(getattr(error, "__notes__", []))
    return f"{''.join(frames)}{type(error).__name__}: {str(error)[:300]}\n{notes[:1500]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--reader", choices=READERS, help="drive this one alone")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    tried, found = dict.fromkeys([options.reader] if options.reader else READERS, 0), 0
    silence = open(os.devnull, "w")  # what readers say on their way
    while time.monotonic() < end:
        for name in tried:
            if time.monotonic() >= end:
                break
            stderr, sys.stderr = sys.stderr, silence
            try:
                tried[name] += fuzz(name, 50)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                found += 1
                print(f"\n{name}:\n{report(error)}", flush=True)
            finally:
                sys.stderr = stderr
    width = max(map(len, tried))
    print("\n".join(f"{name:<{width}}  {number:>9}" for name, number in tried.items()))
    print(f"{'inputs tried':<{width}}  {sum(tried.values()):>9}\n{'findings':<{width}}  {found:>9}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
