"""Which pictures a person means: a folder with one folder for each class, or files and folders of any."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from few_shot.data.class_folders import scan, some, suffixes
from few_shot.errors import BadInput
from few_shot.files import given_path, shortened
from few_shot.limits import FOLDERS
from training.labels import is_table
from training.page import is_page


def labelled_pictures(folder: str | Path, argument: str = "support") -> tuple[dict[str, list[Path]], list[str]]:
    """The files of each class, ``<folder>/<class>/<picture>``, classes sorted by name.

    Args:
        argument: what a message calls the folder.

    Returns:
        The files, and what lies where no picture should, each with what is wrong: pictures beside the class folders,
        and folders in them.

    Raises:
        BadInput: the folder cannot be read, or has fewer than two classes.
    """
    folder = given_path(folder, argument)
    if not folder.is_dir():
        raise BadInput(f"{argument}={folder} is no folder: it is to hold a folder of pictures for each class.")
    entries = scan(folder)
    classes = [entry for entry in entries if entry.is_folder]
    strays = [
        f"{entry.path} (a picture that lies in no class's folder)"
        for entry in entries
        if not entry.is_folder and Path(entry.name).suffix.lower() in suffixes()
    ]
    if len(classes) < 2:
        found = "one folder" if classes else "no folders"
        raise BadInput(
            f"{argument}={folder} holds {found}: it is to hold a folder of pictures for each class, and at least two."
        )
    files = {}
    for entry in classes:
        inside = scan(entry.path)
        strays += [f"{deeper.path} (a folder in a class's folder)" for deeper in inside if deeper.is_folder]
        files[entry.name] = [Path(picture.path) for picture in inside if not picture.is_folder]
    return files, strays


def listed_pictures(paths: Sequence[str]) -> list[Path]:
    """The files that are named, and all files in the folders that are named, however deep; each once.

    A folder's files are sorted by name. Hidden files, and those that systems leave (``Thumbs.db``), are not pictures.
    Neither are the tables and pages that an earlier call has written.

    Args:
        paths: files, folders, or patterns such as ``inbox/*.jpg`` that the shell has left as they are.

    Raises:
        BadInput: one does not exist, or there are no files.
    """
    named = [Path(path) for text in paths for path in _matches(str(given_path(text, "images")))]
    found: dict[str, Path] = {}
    for path in named:
        if not path.exists():
            raise BadInput(f"images={path} does not exist.")
        for file in _files_in(path, set()) if path.is_dir() else [path]:
            if not _is_result(file):
                found.setdefault(os.path.realpath(file), file)
    if not found:
        raise BadInput(f"images={some(list(paths))} holds no files.")
    return list(found.values())


def _is_result(path: Path) -> bool:
    ending = path.suffix.lower()
    return (ending == ".csv" and is_table(path)) or (ending == ".html" and is_page(path))


def _matches(text: str) -> list[str]:
    return [text] if os.path.lexists(text) else sorted(glob.glob(text)) or [text]


def _files_in(folder: Path, seen: set[str], depth: int = 1) -> Iterable[Path]:
    """Files before folders. A folder that several links lead to is looked through once: links may go in circles."""
    if depth > FOLDERS:
        raise BadInput(f"{shortened(folder)} lies too deep: {FOLDERS} folders in one another are the most.")
    seen.add(os.path.realpath(folder))
    entries = scan(folder)
    yield from (Path(entry.path) for entry in entries if not entry.is_folder)
    for entry in entries:
        if entry.is_folder and os.path.realpath(entry.path) not in seen:
            yield from _files_in(Path(entry.path), seen, depth + 1)
