"""What a constructor was called with, remembered, so that a checkpoint can say how to build the object again."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

from few_shot.errors import BadInput, true_or_false

_weights_follow = ContextVar("weights_follow", default=False)


@contextmanager
def weights_follow() -> Iterator[None]:
    """What is built in here gets all its weights from a checkpoint next: a pretrained model fetches none itself."""
    token = _weights_follow.set(True)
    try:
        yield
    finally:
        _weights_follow.reset(token)


def do_weights_follow() -> bool:
    """Whether what is built now gets all its weights from a checkpoint next."""
    return _weights_follow.get()


class RemembersArguments:
    """A base class whose instances keep their constructor's arguments by name, in ``constructor_arguments``.

    A class whose constructor takes ``**kwargs`` for its base class has the base class's arguments too. Those that it
    has no use for it names in ``unused``, each with the reason; who gives one is told so.
    """

    unused: ClassVar[Mapping[str, str]] = {}
    constructor_arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        for name, reason in cls.unused.items():
            if name in kwargs:
                raise BadInput(f"{name}={kwargs[name]} is of no use to {cls.__name__}: {reason}.")
        self = super().__new__(cls)
        # Not by setattr: a module takes no attributes before its constructor has run.
        self.__dict__["constructor_arguments"] = _arguments(cls, args, kwargs)
        return self


def _arguments(cls: type, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of a call, by name: those given, and those left at their defaults.

    The defaults of base classes count too, unless a class from outside this package stands before them: what such a
    class hands on to its bases is not known.
    """
    found = dict(kwargs)
    for i, base in enumerate(base for base in cls.__mro__ if "__init__" in base.__dict__):
        parameters = list(inspect.signature(base.__dict__["__init__"]).parameters.values())[1:]  # without self
        if i == 0:
            found |= dict(zip((p.name for p in parameters), args, strict=False))
        for p in parameters:
            if p.default is not p.empty and p.name not in cls.unused:  # type: ignore[attr-defined]
                _check_form(p, found.setdefault(p.name, p.default))
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not open_ended or not base.__module__.startswith("few_shot."):
            break
    return found


def _check_form(parameter: inspect.Parameter, value: Any) -> None:
    """Raise BadInput if an argument is a switch, a choice or a tuple, by its annotation, and the value is none."""
    annotation = parameter.annotation
    if get_origin(annotation) is tuple and not isinstance(value, Sequence):
        raise BadInput(f"{parameter.name}={value!r} must be several numbers, such as {parameter.default}.")
    if annotation in (bool, bool | None) and value is not None:
        true_or_false(value, parameter.name)
    kinds = [annotation, *get_args(annotation)] if get_origin(annotation) is not Literal else [annotation]
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices and value is not None and value not in choices:
        raise BadInput(f"{parameter.name}={value} is unknown: choose one of {', '.join(map(str, choices))}.")
