"""Pickles from strangers: arrays, dicts, lists, strings, bytes and numbers are loaded, anything else is refused."""

import codecs
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from few_shot.errors import BadInput

# What a pickled array names, under the module names of NumPy 1 and 2. The objects are ours: nothing is imported.
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # bytes, in pickles of protocol 2
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = np.zeros(1).__reduce__()[0]
    _ALLOWED[f"{_core}.multiarray", "scalar"] = np.float64(0).__reduce__()[0]
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = np.zeros(1).__reduce_ex__(5)[0]


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array, dict, list, string or number")
        return _ALLOWED[module, name]


def load(file: BinaryIO, name: Path | str) -> Any:
    """Load a pickle, of Python 2 or 3, without running anything in it.

    Raises:
        BadInput: it is damaged, or holds something else than data; ``name`` is what to call it.
    """
    try:
        return _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise BadInput(f"{name} is no pickle of plain data ({error}): it is not used.") from error
