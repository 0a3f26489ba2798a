"""Every reader of what others wrote, with the inputs that it is given."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from few_shot import load
from few_shot.data import ImageFolders, cifar100, cub, mini_imagenet, omniglot, safe_pickle, tiered_imagenet
from few_shot.data.image_store import ImageStore, ensure_store, read_manifest
from few_shot.data.pictures import decode, preprocessing, read_pictures
from few_shot.errors import BadInput
from few_shot.models.pretrained import read_weights
from few_shot.samples import Inputs, encode
from fuzzing.nearly_right import SCALARS, VALUES, changed, mutated
from fuzzing.valid_files import (
    MANIFEST,
    OPERATIONS,
    archives,
    checkpoint,
    data_of,
    npy,
    pickles_of,
    pictures,
    record,
    saved,
    with_data,
    write_checkpoint,
)
from training.command_line import clear_errors, parse, parse_options
from training.picture_lists import labelled_pictures, listed_pictures
from training.pictures import draw_curves
from training.predict import LabelOptions
from training.report import report_of_one, report_of_several
from training.run_folder import RunFolder, read_checkpoint
from training.settings import read_settings


class Reader(NamedTuple):
    """What reads, and what it is given: ``drive(folder, input)``, where the folder is empty."""

    inputs: st.SearchStrategy
    drive: Callable[[Path, object], object]


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
    with contextlib.suppress(OSError, ValueError):  # as it says
        read_manifest(store)
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
        if os.path.lexists(path):
            continue
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
    folder = grow(folder / "photos", tree)  # a link to the folder above does not lead out of it
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
    sys.modules.pop("this", None)
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
        except (BadInput, SystemExit):  # a command line ends the process, with its sentence
            continue
    assert "this" not in sys.modules, "a checkpoint's word is not enough to import what it names"


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


@st.composite
def records(draw):
    """A run's record in which up to three files are damaged."""
    files = dict(record())
    for name in draw(st.lists(st.sampled_from(sorted(files)), max_size=3, unique=True)):
        files[name] = draw(mutated([files[name]]))
        if name.endswith(".json") and draw(st.booleans()):
            files[name] = json.dumps(draw(changed(json.loads(record()[name]))), default=repr).encode()
    return files


def drive_record(folder, files):
    for name, data in files.items():
        _written(folder, data, name)
    run = RunFolder(folder)
    reads = [lambda: report_of_one(run), lambda: report_of_several([run, run]), lambda: draw_curves(run)]
    reads += [lambda: run.append_metrics([{"step": 9, "new": 1}]), lambda: run.add_cost(3, training=1.0)]
    reads += [lambda: run.record({}, "a device", {"global_step": 2, "callbacks": {}}), run.finish]
    for read in reads:
        try:
            read()
        except BadInput:
            continue
        finally:
            matplotlib.pyplot.close("all")


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
    with contextlib.suppress(SystemExit), clear_errors():
        parse(["--data_class=Sinusoid", *argv], "fuzz").modules()
    flags = ("checkpoint", "support", "images", "output", "steps")
    with contextlib.suppress(SystemExit):
        parse_options([f"--{flags[i % 5]}={value}" for i, (_, value) in enumerate(given)], "fuzz", LabelOptions)


def drive_paths(folder, text):
    with contextlib.suppress(ValueError):
        if os.path.exists(os.path.expanduser(text)):  # such as /, which would be looked through
            return
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
        except (BadInput, SystemExit):
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
    "run records": Reader(records(), drive_record),
    "flags": Reader(flags, drive_flags),
    "paths": Reader(st.text() | SCALARS.filter(lambda x: isinstance(x, str)), drive_paths),
    "samples": Reader(st.tuples(ARRAYS, ARRAYS), drive_samples),
}
