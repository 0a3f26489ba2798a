"""Classes and functions of the user's own, found by their dotted names."""

import importlib
import sys
from types import ModuleType
from typing import Any


def find(name: str, package: ModuleType) -> Any:
    """What a name stands for: a part of the package, or of any module where the name is dotted. None if it has no such.

    The module may lie in the folder where the command is run.

    Raises:
        ImportError: there is no such module.
    """
    module, dot, bare = name.rpartition(".")
    if not dot:
        return getattr(package, bare, None)
    if not all(part.isidentifier() for part in module.split(".")):
        raise ImportError(f"{module} is no name of a module")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), bare, None)
    finally:
        sys.path.remove("")
