"""What a checkpoint holds, whether Lightning wrote it or it is a published result's folder."""

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "weights.safetensors", "config.yaml"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The run's ``config`` and its ``state_dict``, at least.

    Args:
        path: a checkpoint that Lightning wrote, or a folder with ``config.yaml`` and ``weights.safetensors``.

    Raises:
        FileNotFoundError: there is no such file.
        Exception: whatever else goes wrong in reading it.
    """
    path = Path(path)
    if not path.is_dir():
        return torch.load(path, map_location="cpu", weights_only=True)
    return {"config": yaml.safe_load((path / CONFIG).read_text()), "state_dict": load_file(path / WEIGHTS)}


def write_weights(state_dict: dict[str, torch.Tensor], folder: Path) -> None:
    """Write ``weights.safetensors`` into a folder."""
    save_file({name: value.contiguous() for name, value in state_dict.items()}, folder / WEIGHTS)
