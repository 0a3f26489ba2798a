"""Looks through a pickle before it is loaded: Python's loader trusts a pickle's word on sizes, and may crash on it."""

import os
import pickletools
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from few_shot.limits import PICKLE_BYTES, PICKLE_DEPTH, PICKLE_OBJECTS, in_words

_CODES = {code.code.encode("latin1"): code for code in pickletools.opcodes}
#: By what pickletools says of an operand's size: how many bytes say it.
_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_PUT, _GET = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
_INTO_THE_FIRST = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_MARK = -1  # where a depth would stand


class Operation(NamedTuple):
    """A step of a pickle, with its operand: ``size`` bytes from ``start`` on, counted from the file's beginning.

    ``head`` is the operand's first 16 bytes, which hold any number.
    """

    code: pickletools.OpcodeInfo
    start: int
    size: int
    head: bytes


def operations(file: BinaryIO, end: int) -> Iterator[Operation]:
    """A pickle's operations, from where the file stands to the last; long operands are passed over, not read.

    Args:
        file: a file that can be read from any place.
        end: where the file ends.

    Raises:
        ValueError: it is no pickle, or is cut off.
    """
    at = file.tell()
    while True:
        code = _CODES.get(file.read(1))
        if code is None:
            raise ValueError(f"no pickle has what is at byte {at}")
        at += 1
        kind = 0 if code.arg is None else code.arg.n
        if kind == pickletools.UP_TO_NEWLINE:
            size, head = _lines(file, 2 if code.name in ("GLOBAL", "INST") else 1)
        else:
            size = kind
            if kind in _WIDTHS:
                size = int.from_bytes(file.read(_WIDTHS[kind]), "little")
                at += _WIDTHS[kind]
            head = file.read(min(size, 16)) if size else b""
            if size > 16:
                file.seek(at + size)
        if at + size > end:
            raise ValueError("it is cut off")
        yield Operation(code, at, size, head)
        at += size
        if code.name == "STOP":
            return


def _lines(file: BinaryIO, number: int) -> tuple[int, bytes]:
    """Pass over so many lines: how many bytes they have, and the first 16 of them."""
    size, head = 0, b""
    while number:
        piece = file.readline(1 << 16)
        if not piece:
            raise ValueError("it is cut off")
        size, head = size + len(piece), head or piece[:16]
        number -= piece.endswith(b"\n")
    return size, head


def check(file: BinaryIO) -> None:
    """See to it that a pickle can be loaded: that it is whole, and within the bounds. The file then stands behind it.

    Without this, nine bytes take 5 GB, by the number they give to an object; and a megabyte of tuples in one another
    overflows the stack of the loader, which ends the process.

    Raises:
        ValueError: it is not; says why.
    """
    begin, end = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(begin)
    depths: list[int] = []  # of the objects on the loader's stack
    named: dict[int, int] = {}  # depths too, by the numbers that the pickle gives to objects
    try:
        for i, operation in enumerate(operations(file, end)):
            if i > PICKLE_OBJECTS:
                raise ValueError(f"it holds more than {PICKLE_OBJECTS} objects")
            if operation.start + operation.size - begin > PICKLE_BYTES:
                raise ValueError(f"it has more than {in_words(PICKLE_BYTES)}, which is the most")
            _apply(operation, i, depths, named)
    except (IndexError, KeyError) as error:
        raise ValueError("it takes an object that is not there") from error


def _apply(operation: Operation, i: int, depths: list[int], named: dict[int, int]) -> None:
    """Do to the depths what the loader does to the objects."""
    code, name = operation.code, operation.code.name
    if name in _PUT:
        number = len(named) if name == "MEMOIZE" else _number(operation)
        if number > i:
            raise ValueError(f"it gives an object the number {number}, and has fewer objects")
        named[number] = depths[-1]
    elif name in _GET:
        depths.append(named[_number(operation)])
    elif name == "DUP":
        depths.append(depths[-1])
    elif name == "FRAME" and _number(operation) > PICKLE_BYTES:
        raise ValueError(f"it has more than {in_words(PICKLE_BYTES)}, which is the most")
    else:
        taken = _take(code, depths)
        first, others = taken[:1], taken[1:]
        depth = max(first + [d + 1 for d in others]) if name in _INTO_THE_FIRST else max(taken, default=-1) + 1
        if depth > PICKLE_DEPTH:
            raise ValueError(f"it holds objects more than {PICKLE_DEPTH} deep in one another")
        depths += [_MARK if after is pickletools.markobject else depth for after in code.stack_after]


def _take(code: pickletools.OpcodeInfo, depths: list[int]) -> list[int]:
    """Take off the stack what an operation takes."""
    before, taken = code.stack_before, []
    if pickletools.markobject in before:
        while (depth := depths.pop()) != _MARK:
            taken.append(depth)
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        taken.append(depths.pop())
    return taken[::-1]


def _number(operation: Operation) -> int:
    as_text = operation.code.name in ("PUT", "GET")
    return int(operation.head) if as_text else int.from_bytes(operation.head, "little")
