"""Files that ``torch.save`` wrote, and their reader, which runs nothing in them as code."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from few_shot.files import open_file
from few_shot.limits import in_words
from few_shot.pickles import check


def read_torch(path: str | Path) -> Any:
    """What ``torch.save`` wrote: plain values and tensors, on the CPU. Nothing in it is run as code.

    Raises:
        Exception: of any kind, if it cannot be read, or would unpack to more than its own size.
    """
    with open_file(path) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                _look_into(archive, os.fstat(file.fileno()).st_size)
        else:  # the format before PyTorch 1.6: five pickles, and then the numbers
            file.seek(0)
            for _ in range(5):
                check(file)
    return torch.load(path, map_location="cpu", weights_only=True)


def _look_into(archive: zipfile.ZipFile, size: int) -> None:
    """See to it that the archive unpacks to no more than its size, and that its pickle can be loaded."""
    members = archive.infolist()
    if (unpacked := sum(member.file_size for member in members)) > size:
        raise ValueError(f"it unpacks to {in_words(unpacked)}, which is more than its own {in_words(size)}")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it holds a file twice")
    for member in members:
        if member.filename.endswith(".pkl"):
            check(io.BytesIO(archive.read(member)))


def reason(error: Exception) -> str:
    """Why a file could not be read, in a few words: ours, or the kind of an error of others, who take many."""
    return str(error) if type(error) is ValueError else getattr(error, "strerror", None) or type(error).__name__


def are_weights(content: Any) -> bool:
    """Whether it is a state dict: tensors by name, each with memory of its own size."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and (name.endswith("_extra_state") or _is_weight(value))
        for name, value in content.items()
    )


def _is_weight(value: Any) -> bool:
    ordinary = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
    return ordinary and not value.is_quantized and value.nbytes <= value.untyped_storage().nbytes()
