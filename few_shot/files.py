"""Where a path and a file come in: a path that a person gives, and the opening of a file that others wrote."""

import errno
import os
import stat
import unicodedata
from pathlib import Path
from typing import BinaryIO

from few_shot.errors import BadInput
from few_shot.limits import in_words


def given_path(path: str | os.PathLike, argument: str) -> Path:
    """A path as a person gives it; ``~`` is the home folder. Nothing need be there.

    Raises:
        BadInput: no file can have that path; names the argument.
    """
    try:
        text = os.fspath(path)
        if not text:
            raise ValueError("it is empty")
        found = Path(text).expanduser()
        os.lstat(found)
    except (TypeError, ValueError, RuntimeError) as error:  # a NUL, half a character, or the home of nobody
        raise BadInput(f"{argument}={shortened(path)} is no path ({str(error).rstrip('.')}).") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadInput(f"{argument}={shortened(path)} is no path (it is too long).") from error
    return found


def shortened(value: object, most: int = 80) -> str:
    """A value as it is shown in a message: in one line, and not without an end."""
    text = str(value).encode(errors="backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= most else f"{text[:most]}…"


def printable(text: str) -> str:
    """The text without characters that would change a terminal, as names of files may have them."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def same_spelling(name: str) -> str:
    """A name as it is compared with others: systems spell an ü in two ways."""
    return unicodedata.normalize("NFC", name)


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Open a file to read its bytes. A pipe or a device, which may keep one waiting for ever, is refused.

    Raises:
        OSError: it cannot be opened, or is no file; its ``strerror`` says so in words.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise OSError(errno.EINVAL, f"it is no path: {error}", shortened(path)) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder, open() says it well
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", os.fspath(path))
    return open(path, "rb")


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """A file's content.

    Args:
        path: the file.
        most: how many bytes it may have, one of :mod:`few_shot.limits`.

    Raises:
        OSError: it cannot be read, is no file, or is larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            reason = f"it has {in_words(size)}, and {in_words(most)} is the most that is read"
            raise OSError(errno.EFBIG, reason, os.fspath(path))
        return file.read()
