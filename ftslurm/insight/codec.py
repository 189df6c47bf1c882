"""What was read of a run, as JSON and back, so that it need not be read again.

Any dataclass of this package is written by its fields, without names for them: the form is for the same release only
(`remembered` sees to that). Events and actions have the form that they have in a journal. What does not fit the types
that it is read for raises ValueError, and is then no memory at all.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar, cast

from ftslurm.core.actions import Action
from ftslurm.core.events import Event
from ftslurm.core.records import from_record, to_record
from ftslurm.errors import DataDamaged

Kind = TypeVar("Kind")
Reader = Callable[[Any], Any]


def plain(value: object) -> Any:  # noqa: ANN401 - JSON
    """`value` as JSON takes it: a dataclass is the list of its fields, a mapping a list of pairs."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Event | Action):
        return to_record(value)
    if isinstance(value, Mapping):
        return [[plain(key), plain(item)] for key, item in value.items()]
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(item) for item in value]
    # Not one that has no fields at all: it would be read back as anything.
    return [plain(getattr(value, spec.name)) for spec in dataclasses.fields(cast("Any", value))]


def build(kind: type[Kind], value: Any) -> Kind:  # noqa: ANN401 - JSON
    """The record of this kind that `plain` has written so.

    Raises:
        ValueError: it is none.
    """
    try:
        return cast("Kind", _reader(cast("Any", kind))(value))
    except (TypeError, KeyError, IndexError, OverflowError, DataDamaged) as error:
        raise ValueError(f"no {kind.__name__}: {error}") from error


@functools.cache
def _reader(hint: Any) -> Reader:  # noqa: ANN401 - a type
    """What turns JSON into a value of this type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is None:
        return lambda value: _a(type(None), value)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (_reader(each) for each in arguments if each is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return _row(tuple, [_reader(each) for each in arguments])
    if origin in (dict, Mapping):
        key, item = (_reader(each) for each in arguments)
        return lambda value: {key(name): item(each) for name, each in _a(list, value)}
    if origin is not None:
        each = _reader(arguments[0])
        return lambda value: origin(each(item) for item in _a(list, value))
    if issubclass(hint, Event | Action):
        return lambda value: _a(hint, from_record(value))
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        names = [spec.name for spec in dataclasses.fields(hint)]
        fields = _row(tuple, [_reader(hints[name]) for name in names])
        make = cast("Callable[..., Any]", hint)
        return lambda value: make(**dict(zip(names, fields(value), strict=True)))
    if issubclass(hint, Enum):
        return cast("Reader", hint)
    return lambda value: _a((int, float) if hint is float else hint, value)


def _row(kind: Callable[[Any], Any], readers: list[Reader]) -> Reader:
    """A list of so many values, each of its own type."""
    return lambda value: kind(read(item) for read, item in zip(readers, _a(list, value), strict=True))


def _a(kind: Any, value: Any) -> Any:  # noqa: ANN401 - any type, any value
    """`value`, if it is of this kind; JSON's true and false are no numbers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{str(value)[:80]!r} is of the wrong type")
    return value
