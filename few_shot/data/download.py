"""Fetching archives: from the first source that answers, checked before use; read in place, never extracted."""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from few_shot.errors import BadInput

CONNECT_TIMEOUT = 10  # seconds without an answer
BLOCK = 1 << 20


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
            _fetch(url, part)
            if md5:
                check(part, md5=md5)
            part.replace(target)
            return
        except (OSError, http.client.HTTPException, BadInput) as error:
            reasons.append(f"{url}: {error}")
        finally:
            part.unlink(missing_ok=True)
    raise BadInput(f"{target.name} could not be downloaded to {target.parent} ({'; '.join(reasons)}).")


def _fetch(url: str, part: Path) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
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
