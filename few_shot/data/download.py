"""Fetching archives: from the first source that answers, checked before use; read in place, never extracted."""

import contextlib
import difflib
import hashlib
import http.client
import os
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from few_shot.data.class_folders import Entry, scan, some
from few_shot.errors import BadInput

CONNECT_TIMEOUT = 10  # seconds without an answer
BLOCK = 1 << 20
DEFAULT_DIR = Path("data")  # the folder that nobody had to name


def announce(title: str, data_dir: Path, names: Sequence[str], forms: str, size: str) -> None:
    """Say that a data set that was not found is now downloaded, or refuse to.

    It is downloaded into the default folder, and into a folder that exists and is empty, or holds one of ``names``: a
    folder of the user's is not filled with what the user did not ask for.

    Args:
        title: the data set's name.
        data_dir: where it was looked for.
        names: what the data set's own folders (or files) in there are called.
        forms: what was looked for.
        size: how much it is, with its unit.

    Raises:
        BadInput: the folder does not exist, or holds something else; the message says what, and what was looked for.
    """
    if data_dir != DEFAULT_DIR:
        own = next(name for name in names if name)
        if not data_dir.is_dir():
            raise BadInput(
                f"{not_there(data_dir)} {title} is looked for there as {forms}; to have it downloaded there, make the "
                "folder first."
            )
        found = scan(data_dir)
        if found and not {entry.name.lower() for entry in found} & {name.lower() for name in names}:
            raise BadInput(
                f"data_dir={data_dir} does not hold {title}. It holds {counted(found)}. {title} is looked for there "
                f"and in its subfolder {own}, as {forms}. To have it downloaded ({size}), make the folder "
                f"{data_dir / own}. Pictures of your own are read with data_class=ImageFolders."
            )
    print(f"{title} is not in {data_dir}: downloading it there ({size}).", file=sys.stderr)


def not_there(data_dir: Path) -> str:
    """Says that a folder does not exist, and which one may be meant."""
    beside = [entry.name for entry in scan(data_dir.parent)] if data_dir.parent.is_dir() else []
    close = difflib.get_close_matches(data_dir.name, beside, n=1)
    where = "" if data_dir.is_absolute() else f" in {Path.cwd()}"
    return f"data_dir={data_dir} does not exist{where}" + (f" (did you mean {close[0]}?)." if close else ".")


def counted(entries: Sequence[Entry]) -> str:
    """How many folders and files these are, and the first few names."""
    folders = [entry.name for entry in entries if entry.is_folder]
    files = [entry.name for entry in entries if not entry.is_folder]
    return (
        " and ".join(
            f"{len(names)} {kind}{'s' * (len(names) > 1)} ({some(names, 5)})"
            for kind, names in (("folder", folders), ("file", files))
            if names
        )
        or "nothing"
    )


@contextlib.contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder; if what is done with it fails, remove those that are new and still empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):  # it holds something, or is gone already
                path.rmdir()
        raise


def download(urls: Sequence[str], target: Path, md5: str | None = None) -> None:
    """Fetch a file from the first of its sources that delivers it whole, and put it in its place once checked.

    Raises:
        BadInput: no source delivers it, with each source's reason; or the target cannot be written.
    """
    # Named after the process: another one may be at the same file.
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    reasons = []
    for url in urls:
        try:
            with made(part.parent):
                try:
                    _fetch(url, part)
                    if md5:
                        check(part, md5=md5)
                    part.replace(target)
                    return
                finally:
                    part.unlink(missing_ok=True)
        except (OSError, http.client.HTTPException, BadInput) as error:
            reasons.append(f"{url}: {error}")
    raise BadInput(f"{target.name} could not be downloaded to {target.parent} ({'; '.join(reasons)}).")


def _fetch(url: str, part: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "few_shot"})
    with urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT) as response, open(part, "wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=total or None, desc=f"Downloading {part.name.split('.')[0]}", unit="B", unit_scale=True) as bar:
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
        if total and file.tell() != total:
            raise OSError(f"the connection broke after {file.tell()} of {total} bytes")


def check(path: Path, md5: str) -> None:
    """Compare a file with its checksum.

    Raises:
        BadInput: it has another checksum, with the expected and the found one; or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}).") from error
    if found != md5:
        raise BadInput(
            f"{path} is not the archive it should be: its md5 is {found}, expected {md5}. "
            "Replace it, or remove it to have it downloaded."
        )
