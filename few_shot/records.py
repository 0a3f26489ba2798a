"""Reads the tables and JSON files of a run's record, and names the file that is damaged."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from few_shot.errors import BadInput
from few_shot.files import read_bytes
from few_shot.limits import LIST_BYTES


class Damaged(BadInput):
    """A file of a record does not hold what was written there."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path} is damaged ({' '.join(str(reason).split())}).")


def read_json(path: Path, form: Any) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        form: what it must look like. A dict names keys and the form of each; other keys may be there too. The key
            ``str`` stands for every key. A list of one form stands for any number of values of that form. A tuple
            names alternatives. A type is the value's, a string the value; None is null, or a key that is missing.

    Raises:
        Damaged: it cannot be read, or looks otherwise.
    """
    try:
        content = json.loads(_text(path), parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, error) from error
    if not fits(content, form):
        raise Damaged(path, "it does not hold what a run writes there")
    return content


def fits(content: Any, form: Any) -> bool:
    """Whether plain content has a form, as :func:`read_json` takes one."""
    if isinstance(form, tuple):
        return any(fits(content, alternative) for alternative in form)
    if form is None or isinstance(form, str):
        return content == form
    if isinstance(form, dict):
        if not isinstance(content, dict):
            return False
        if str in form:
            return all(fits(value, form[str]) for value in content.values())
        return all(fits(content.get(key), inner) for key, inner in form.items())
    if isinstance(form, list):
        return isinstance(content, list) and all(fits(value, form[0]) for value in content)
    return isinstance(content, form)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by its head. A last line that a kill has torn is left out.

    Raises:
        Damaged: it cannot be read, or a row has more or fewer values than the head.
    """
    text = _text(path)
    try:
        head, *rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))) or [[]]
    except csv.Error as error:
        raise Damaged(path, error) from error
    if wrong := next((i for i, row in enumerate(rows, 2) if len(row) != len(head)), None):
        raise Damaged(path, f"row {wrong} has not as many values as the head")
    return [dict(zip(head, row, strict=True)) for row in rows]


def read_head(path: Path) -> list[str]:
    """The names in the first line of a CSV file.

    Raises:
        Damaged: it has none that can be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])
    except (ValueError, csv.Error) as error:
        raise Damaged(path, error) from error


def read_figure(path: Path) -> str:
    """The text of an SVG file that matplotlib wrote.

    Raises:
        Damaged: it is none.
    """
    text = _text(path)
    if not re.search(r'<svg [^>]*width="\d+(\.\d+)?pt"', text):
        raise Damaged(path, "it is no figure")
    return text


def _text(path: Path) -> str:
    try:
        return read_bytes(path, LIST_BYTES).decode()
    except OSError as error:
        raise Damaged(path, error.strerror or error) from error
    except UnicodeDecodeError as error:
        raise Damaged(path, "it is no text") from error


def _whole_number(digits: str) -> int | float:
    """A number of more digits than any count has is no count."""
    return int(digits) if len(digits) < 20 else float(digits)
