"""A small valid file of every kind that is read."""

import contextlib
import io
import json
import pickle
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from few_shot import ProtoNet
from few_shot.checkpoint import describe
from few_shot.data.pictures import preprocessing
from few_shot.models import Conv4
from training import run_experiment


def written(write, *args, **kwargs):
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
    kinds += [(colour, f, {}) for f in ("SGI", "MSP", "XBM", "JPEG2000", "AVIF", "ICNS", "EPS", "PDF", "QOI")]
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
            found.append(written(image.save, kind, **options))
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
        "train": {
            "data": np.zeros((100, 3072), np.uint8),
            "fine_labels": list(range(100)),
            "filenames": ["a.png"] * 100,
            "x": np.float32(1),
        },
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
        written(np.save, np.zeros((3, 3, 4, 4), np.uint8)),
        written(np.save, np.zeros(3)),
        written(np.savez, np.zeros(3)),
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


@cache
def record():
    """The files of a run's record that are read, by name."""
    flags = ["--data_class=Sinusoid", "--gpus=0", "--width=2", "--max_steps=4", "--val_check_interval=2"]
    flags += ["--batch_size=2", "--val_episodes=2", "--test_episodes=3"]
    with tempfile.TemporaryDirectory() as log_dir:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run_experiment.main([*flags, f"--log_dir={log_dir}"])
        names = ("config.yaml", "run.json", "metrics.csv", "test_metrics.json", "test_episodes.csv", "curves.svg")
        files = {name: (Path(log_dir) / "Sinusoid-LitMAML" / "version_0" / name).read_bytes() for name in names}
    return files | {"data.json": json.dumps({"classes": {"test": ["a"]}}).encode()}
