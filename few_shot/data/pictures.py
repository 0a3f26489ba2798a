"""From pictures to a model's pixels: the one way, for the stores of training and for new pictures alike."""

import contextlib
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from few_shot.errors import BadInput
from few_shot.files import read_bytes, shortened
from few_shot.limits import JPEG_PIXELS, PICTURE_BYTES, PIXELS, SIDE

Crop = Literal["center", "none"]

# What Pillow raises for damaged files of various kinds.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    Image.DecompressionBombError,
)
_MOST = (
    f"{PIXELS / 1e6:.0f} million is the most, or {JPEG_PIXELS / 1e6:.0f} million in a JPEG that is not progressive: "
    "make it smaller, or save it as such a JPEG"
)
_STRIP = 1 << 22  # pixels that are flattened at once
_LARGE = threading.Lock()  # large pictures are decoded one at a time, however many threads read
CHANNELS = (1, 3)  # of what a model takes: grey, or colour
_CHANNELS = (1, 2, 3, 4)  # of what is read: grey, grey with alpha, colour, colour with alpha


class BadPicture(BadInput):
    """A file that is no picture, or cannot be read; ``reason`` says it in a few words."""

    def __init__(self, path: Path | str, what: str, reason: str) -> None:
        super().__init__(f"{path} cannot be {what} ({reason}): replace it, or remove it.")
        self.reason = reason


class Preprocessing(TypedDict):
    """How pictures become a model's input: a plain dict, so that a checkpoint can hold it."""

    image_size: int | list[int]  # height and width in pixels: one number if they are equal
    channels: int  # 1 for grey, 3 for red, green and blue
    crop: str  # "center": the largest square in the middle; "none": the whole picture, squashed
    resample: str  # Pillow's name of the filter; it takes every pixel into account
    binary_from: int | None  # None, or: resize to so many pixels first, then take the nearest ones, black or white
    invert: bool  # whether black becomes white
    scale: int  # the model gets the stored values, 0 to 255, divided by this


def preprocessing(
    input_shape: Sequence[int], crop: Crop = "none", binary_from: int | None = None, invert: bool = False
) -> Preprocessing:
    """How pictures become inputs of ``input_shape`` ``[C, H, W]`` with values from 0 to 1."""
    channels, height, width = input_shape
    return Preprocessing(
        image_size=height if height == width else [height, width],
        channels=channels,
        crop=crop,
        resample="lanczos",
        binary_from=binary_from,
        invert=invert,
        scale=255,
    )


def check_preprocessing(how: Any) -> Preprocessing:
    """The same, if it is a preprocessing; a checkpoint may say anything.

    Raises:
        BadInput: it is none.
    """
    try:
        height, width = _size(how)
        through = how["binary_from"] or 1
        numbers = (height, width, through, how["scale"])
        whole = all(type(n) is int and 0 < n <= SIDE for n in numbers) and max(height * width, through**2) <= PIXELS
        whole = (
            whole and how["channels"] in CHANNELS and how["crop"] in ("center", "none") and type(how["invert"]) is bool
        )
        Image.Resampling[how["resample"].upper()]
    except (LookupError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise BadInput(f"Pictures cannot be prepared as {shortened(how)}: what the checkpoint says of them is damaged.")
    return how


def read_pictures(pictures: Any, how: Preprocessing) -> NDArray[np.uint8]:
    """Read pictures as a data set's own were read.

    A file and a picture of the same pixels give the same result, but for JPEG files over eight times as large as the
    model's pictures: they are decoded at a fraction of their size, which is ten times as fast and at most a grey level
    or two off.

    Args:
        pictures: one picture or several, in a list or any other iterable. A picture is the path of a file that Pillow
            reads; a PIL image; or an array or tensor ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` (where both would do,
            an array is ``[H, W, C]`` and a tensor ``[C, H, W]``), with whole numbers from 0 to 255, 16-bit numbers, or
            floats from 0 to 1. An array or tensor of four dimensions is several pictures. They are pictures as they
            lie on disk: what a data module's batches hold is prepared already.
        how: the ``preprocessing`` of the data module that the learner was trained on.

    Returns:
        uint8 ``[n, C, H, W]``.

    Raises:
        BadInput: there is no picture, or one cannot be read; the message says which.
    """
    listed, single = _as_list(pictures)
    if not listed:
        raise BadInput("There are no pictures: the list is empty.")
    names = [_name_of(x, None if single else i, len(listed)) for i, x in enumerate(listed)]
    return np.stack([_read(picture, name, how) for picture, name in zip(listed, names, strict=True)])


def read_file(path: Path | str, how: Preprocessing) -> NDArray[np.uint8]:
    """Read a file, ``[C, H, W]``.

    Raises:
        BadPicture: it cannot be read, or is no picture.
    """
    try:
        data = read_bytes(path, PICTURE_BYTES)
    except OSError as error:
        raise BadPicture(path, "read", str(error.strerror)) from error
    return decode(data, path, how)


def decode(data: bytes, name: Path | str, how: Preprocessing) -> NDArray[np.uint8]:
    """Decode the content of an image file, ``[C, H, W]``; of an animation or a stack, the first picture.

    Raises:
        BadPicture: it is no picture, is cut off, or is larger than ``limits`` allows; ``name`` is what to call it.
    """
    try:
        with _open(data) as image:
            pixels, (height, width) = image.width * image.height, _size(how)
            if image.format == "JPEG" and pixels <= JPEG_PIXELS and not image.info.get("progressive"):
                image.draft(None, (8 * width, 8 * height))
            decoded = image.width * image.height
            if decoded > PIXELS:
                raise Image.DecompressionBombError(f"it has {pixels / 1e6:.0f} million pixels, and {_MOST}")
            if max(image.size) > SIDE:
                raise ValueError(f"it is {max(image.size)} pixels long, and {SIDE} is the most")
            with _LARGE if decoded > _STRIP else contextlib.nullcontext():
                return _prepare(image, how)
    except _DAMAGED as error:
        raise BadPicture(name, "decoded as an image", _reason(error, name)) from error


def _open(data: bytes) -> Image.Image:
    """Read a picture's head.

    A JPEG does not pass through ``Image.open``, which refuses 200 million pixels unseen. EPS is left out: it is a
    program, which Pillow has another program run.
    """
    if data.startswith(b"\xff\xd8\xff"):
        try:
            return JpegImageFile(io.BytesIO(data))
        except (SyntaxError, IndexError, TypeError, struct.error) as error:  # as Image.open has it
            raise Image.UnidentifiedImageError from error
    return Image.open(io.BytesIO(data), formats=formats())


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


def _reason(error: BaseException, name: Path | str) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        if str(name).lower().endswith((".heic", ".heif")):
            return "Pillow does not read HEIC: save it as JPEG"
        return "it is in no format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError) and not str(error).startswith("it has"):  # Pillow's own words
        return f"it has too many pixels: {_MOST}"
    return shortened(" ".join(str(error).split()), 300) or type(error).__name__


def _prepare(image: Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    """Turn it by its EXIF orientation, lay it on white, crop, resize, make it binary, invert: uint8 ``[C, H, W]``.

    The image itself may be changed: a copy of a large one costs memory.
    """
    height, width = _size(how)
    image.load()
    with contextlib.suppress(*_DAMAGED):  # a damaged EXIF block says nothing of the orientation; the pixels are whole
        ImageOps.exif_transpose(image, in_place=True)
    image = _as(_flat(image), "L" if how["channels"] == 1 else "RGB")
    if how["crop"] == "center":
        # The largest part of the right proportions: a square for square pictures.
        scale = min(image.width / width, image.height / height)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (image.width - w) // 2, (image.height - h) // 2
        if image.size != (w, h):
            image = image.crop((left, top, left + w, top + h))
    through = (how["binary_from"],) * 2 if how["binary_from"] is not None else (width, height)
    if image.size != through:
        image = image.resize(through, Image.Resampling[how["resample"].upper()])
    if how["binary_from"] is not None:
        image = image.resize((width, height), Image.Resampling.NEAREST).point(lambda value: 255 * (value >= 128))
    pixels = np.asarray(image).reshape(height, width, how["channels"]).transpose(2, 0, 1)
    return 255 - pixels if how["invert"] else np.ascontiguousarray(pixels)


def _size(how: Preprocessing) -> tuple[int, int]:
    """Height and width."""
    size = how["image_size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _flat(image: Image.Image) -> Image.Image:
    """The picture in 8 bits a channel, what is transparent in it white; a large one strip by strip."""
    plain = not (image.mode.startswith("I") or image.mode == "F" or image.has_transparency_data)
    rows = max(1, _STRIP // image.width)
    if plain or rows >= image.height:
        return image if plain else _flat_strip(image)
    flat = None
    for top in range(0, image.height, rows):
        strip = _flat_strip(image.crop((0, top, image.width, min(top + rows, image.height))))
        flat = Image.new(strip.mode, image.size) if flat is None else flat
        flat.paste(strip, (0, top))
    assert flat is not None, "a picture has rows"
    return flat


def _flat_strip(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its whole numbers do not fit in 16 bits")
        return Image.fromarray(_eight_bits(values, 65535))
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("its floating point numbers are not from 0 to 1")
        return Image.fromarray(_eight_bits(values.astype(np.float64), 1))
    image = _as(_as(image, "LA" if image.mode == "La" else "RGBA"), "RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _as(image: Image.Image, mode: str) -> Image.Image:
    """The image in a mode, without a copy if it is in that mode."""
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(values: NDArray, top: int) -> NDArray[np.uint8]:
    return np.rint(values * (255 / top)).astype(np.uint8)


def _as_list(pictures: Any) -> tuple[list, bool]:
    """The pictures, and whether it was one by itself."""
    if isinstance(pictures, str | os.PathLike | Image.Image):
        return [pictures], True
    if isinstance(pictures, np.ndarray) and pictures.dtype.kind in "OUT" and pictures.ndim == 1:  # of paths
        return pictures.tolist(), False
    if isinstance(pictures, np.ndarray | torch.Tensor):
        return ([pictures], True) if pictures.ndim < 4 else (list(pictures), False)
    if isinstance(pictures, Iterable) and not isinstance(pictures, bytes):
        return list(pictures), False
    return [pictures], True


def _name_of(picture: Any, number: int | None, total: int) -> str:
    if isinstance(picture, str | os.PathLike):
        return os.fspath(picture)
    return "The picture" if number is None else f"Picture {number + 1} of {total}"


def _read(picture: Any, name: str, how: Preprocessing) -> NDArray[np.uint8]:
    if isinstance(picture, str | os.PathLike):
        if os.path.isdir(picture):
            raise BadInput(f"{name} is a folder, not a picture: give the files in it.")
        return read_file(Path(picture), how)
    if isinstance(picture, torch.Tensor):
        tensor = picture.detach().cpu()
        values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        picture = _image_of(values, name, channels_first=True)
    elif isinstance(picture, np.ndarray):
        picture = _image_of(picture, name, channels_first=False)
    elif isinstance(picture, Image.Image):
        picture = picture.copy()
    else:
        raise BadInput(f"{name} is of type {type(picture).__name__}: give a path, a PIL image, an array or a tensor.")
    try:
        return _prepare(picture, how)
    except _DAMAGED as error:
        raise BadInput(f"{name} cannot be used ({_reason(error, name)}).") from error


def _image_of(values: NDArray, name: str, channels_first: bool) -> Image.Image:
    """An array as a PIL image; ``channels_first`` decides where its shape leaves it open."""
    shape = tuple(values.shape)
    if values.size == 0 or values.ndim not in (2, 3):
        raise BadInput(f"{name} has the shape {shape}: it must be [H, W], [H, W, C] or [C, H, W].")
    if values.ndim == 3:
        first, last = shape[0] in _CHANNELS, shape[2] in _CHANNELS
        if not first and not last:
            raise BadInput(
                f"{name} has the shape {shape}, of which neither end is a number of channels (1 to 4): several "
                "pictures are a list, or an array of four dimensions."
            )
        if first and (channels_first or not last):
            values = values.transpose(1, 2, 0)
        values = values[:, :, 0] if values.shape[2] == 1 else values
    if values.dtype == np.bool_:
        return Image.fromarray(_eight_bits(values, 1))
    if np.issubdtype(values.dtype, np.floating):
        if not (values.min() >= 0 and values.max() <= 1):  # false for NaN too
            raise BadInput(f"{name} has floating point values outside 0 to 1: divide them by the largest there can be.")
        return Image.fromarray(_eight_bits(values.astype(np.float64), 1))
    if values.dtype == np.uint16:
        return Image.fromarray(_eight_bits(values.astype(np.int64), 65535))
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0 or values.max() > 255:
        raise BadInput(f"{name} holds {values.dtype} values that are not whole numbers from 0 to 255.")
    return Image.fromarray(np.ascontiguousarray(values.astype(np.uint8)))
