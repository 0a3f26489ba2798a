"""Pickles from strangers: arrays, dicts, lists, strings, bytes and numbers are loaded, anything else is refused."""

import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from few_shot.errors import BadInput
from few_shot.files import shortened
from few_shot.pickles import check


class _Type:
    """The type of a pickled array's elements: numbers, text of a fixed length, or objects."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any) -> None:
        code = code.decode() if isinstance(code, bytes) else code
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?([biuf][1248]|[SU][0-9]{1,4}|O8?)", code)):
            raise pickle.UnpicklingError(f"it holds an array of {code!r:.20}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take the order of bytes. The rest, which NumPy would believe, is left alone."""
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that is filled with what a pickle holds, once that was seen to fit."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if kind.dtype.hasobject:
            content = list(content)
            np.empty(len(content), bool).reshape(shape)
        else:
            content = _bytes(content)
            np.frombuffer(content, kind.dtype).reshape(shape)
        super().__setstate__((1, shape, kind.dtype, bool(fortran), content))  # type: ignore[arg-type]


_Array.__name__ = "array"  # what NumPy prints


def _bytes(content: Any) -> Any:
    return content.encode("latin1") if isinstance(content, str) else content  # a string of Python 2


class _ArrayUnpickler(pickle.Unpickler):
    """Finds, for what a pickled array names, methods of its own: nothing is imported, and none can be changed."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # NumPy 2 and NumPy 1
        found = {
            ("numpy", "ndarray"): "ndarray",
            ("numpy", "dtype"): self._type,
            ("numpy.core.multiarray", "_reconstruct"): self._empty,
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy.core.numeric", "_frombuffer"): self._filled,
            ("_codecs", "encode"): self._encode,
        }.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array, dict, list, string or number")
        return found

    def _type(self, code: Any, *_: Any) -> _Type:
        return _Type(code)

    def _empty(self, *_: Any) -> NDArray:
        return np.ndarray.__new__(_Array, (0,), np.uint8)

    def _filled(self, content: Any, kind: _Type, shape: Any, order: Any, *_: Any) -> NDArray:
        return np.frombuffer(content, kind.dtype).reshape(shape, order=order)

    def _scalar(self, kind: _Type, content: Any) -> Any:
        return np.frombuffer(_bytes(content), kind.dtype, 1)[0]

    def _encode(self, text: str, encoding: str) -> bytes:
        """Bytes, in pickles of protocol 2."""
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it holds bytes as {encoding!r:.20}")
        return text.encode("latin1")


def load(file: BinaryIO, name: Path | str, checked: bool = False) -> Any:
    """Load a pickle, of Python 2 or 3, without running anything in it.

    Args:
        file: the open file, which stands where the pickle begins.
        name: what to call it.
        checked: whether it was published, by its checksum, so that it need not be looked through for what would take
            the loader's memory or crash it.

    Raises:
        BadInput: it is damaged, larger than :mod:`few_shot.limits` allows, or holds something else than data.
    """
    try:
        if not checked:
            begin = file.tell()
            check(file)
            file.seek(begin)
        return _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise BadInput(f"{name} is no pickle of plain data ({shortened(error, 300)}): it is not used.") from error


def whole_numbers(values: Any) -> NDArray[np.int64]:
    """The numbers of a list or array that a pickle holds.

    Raises:
        ValueError: there are others than whole numbers of 64 bits.
    """
    array = np.asarray(values)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise ValueError(f"{array.dtype} where whole numbers are to be")
    return array.astype(np.int64)


def texts(values: Any) -> list[str]:
    """The names of a list that a pickle holds.

    Raises:
        ValueError: there are others than strings.
    """
    found = [name.decode() if isinstance(name, bytes) else name for name in values]
    if not all(isinstance(name, str) for name in found):
        raise ValueError("something else where names are to be")
    return [str(name) for name in found]
