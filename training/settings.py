"""Files of flags: what ``--config`` names, and the ``config.yaml`` of a run's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from few_shot.errors import BadInput
from few_shot.files import read_bytes
from few_shot.limits import CONFIG_BYTES


def read_settings(path: str | Path, name: str) -> dict[str, Any]:
    """The flags in a YAML file, and their values.

    Args:
        path: the file.
        name: what to call it, such as ``--config=mine.yaml``.

    Raises:
        BadInput: it cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(read_bytes(path, CONFIG_BYTES).decode())
    except OSError as error:
        raise BadInput(f"{name} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{name} is not valid YAML ({' '.join(str(error).split())}).") from error
    return as_settings({} if content is None else content, name)


def as_settings(content: Any, name: str) -> dict[str, Any]:
    """The content as flags and their values, which are plain: a number, text, true or false, null, or a list of those.

    Raises:
        BadInput: it is something else; ``name`` is what to call it.
    """
    if not isinstance(content, Mapping):
        raise BadInput(f"{name} must hold flags, one 'name: value' a line.")
    for flag, value in content.items():
        values = value if isinstance(value, list | tuple) else [value]
        if not isinstance(flag, str) or not all(v is None or isinstance(v, int | float | str) for v in values):
            raise BadInput(f"{name} must hold flags, one 'name: value' a line: {str(flag)[:60]!r} is none.")
    return dict(content)


def setting_of_test(config: Mapping[str, Any], flag: str) -> Any:
    """A flag's value; of the queries of validation and test, what it stands for."""
    if flag != "test_query_samples":
        return config.get(flag)
    return config.get(flag) or config.get("query_samples") or config.get("support_samples")
