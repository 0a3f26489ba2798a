"""Files that are written whole or not at all, whatever ends the process or fills the disk."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from few_shot.errors import BadInput

#: How the name of a file ends that is not whole yet; it begins with a dot.
PART = ".part"


class CannotWrite(BadInput):
    """A file cannot be written: its folder is not there, its name cannot be used, the disk is full."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path} cannot be written ({error.strerror or error}).")


def write_whole(path: Path | str, content: bytes | str) -> None:
    """Write a file under a temporary name in its folder, have the disk keep it, and rename it.

    Raises:
        CannotWrite: it cannot be written. What was there before still is.
    """
    write_together({Path(path): content})


def write_together(contents: Mapping[Path, bytes | str]) -> None:
    """Write files whole. None takes its place before all are written, so that a full disk changes none.

    Raises:
        CannotWrite: one cannot be written. What was there before still is.
    """
    places = {Path(os.path.realpath(path)): content for path, content in contents.items()}  # a link stays one
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}{PART}") for path in places if not _is_device(path)}
    path = None
    try:
        for path, content in places.items():
            content = content.encode() if isinstance(content, str) else content
            _write(parts.get(path, path), content, keep=path in parts)
        for path, part in parts.items():
            part.replace(path)
    except OSError as error:
        assert path is not None
        raise CannotWrite(path, error) from error
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):  # the folder may be gone
                part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk keep what was written to a file so far, if it is there."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def remove_unfinished(folder: Path) -> None:
    """Remove from a folder what killed processes of this machine had not finished."""
    for part in folder.glob(f".*{PART}"):
        pid = part.name.removesuffix(PART).rpartition(".")[2]
        if pid.isdigit() and not _is_alive(int(pid)):
            part.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def _is_device(path: Path) -> bool:
    """Whether it is there and cannot be replaced, such as ``/dev/stdout``."""
    return path.exists() and not path.is_file()


def _write(path: Path, content: bytes, keep: bool) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        if keep:
            os.fsync(file.fileno())
