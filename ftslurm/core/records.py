"""Events and actions as JSON objects and back: the journal's and the control channel's form of them.

A record is ``{"type": <class name>, <field>: <value>, ...}``. Fields with their default value are left out, so that
journals stay readable; fields that a reader does not know are refused, because a journal of a newer version must not
be replayed into different decisions.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, cast

from ftslurm.core import actions, conditions, events, fabric, survey, symptoms, working
from ftslurm.errors import DataDamaged

_KINDS: dict[str, type[Any]] = {
    name: kind
    for module in (events, conditions, survey, fabric, symptoms, working, actions)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, (events.Event, actions.Action))
}
Reader = Callable[[Any], Any]


def to_record(value: events.Event | actions.Action) -> dict[str, Any]:
    """Return the JSON-ready form of an event or an action."""
    return {"type": type(value).__name__, **_fields(value)}


def from_record(record: object) -> Any:
    """Return the event or action that a record stands for.

    Raises:
        DataDamaged: the record has an unknown type, an unknown field or a value of the wrong shape.
    """
    fields = dict(record) if isinstance(record, Mapping) else {}
    name = fields.pop("type", None)
    kind = _KINDS.get(str(name))
    if kind is None:
        raise DataDamaged(f"unknown record type {name!r}", hint="written by a newer ftslurm?")
    return _build(kind, fields)


def _fields(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for spec in dataclasses.fields(value):
        item = getattr(value, spec.name)
        if spec.default is not dataclasses.MISSING and item == spec.default:
            continue
        if spec.default_factory is not dataclasses.MISSING and item == spec.default_factory():
            continue
        found[spec.name] = _plain(item)
    return found


def _plain(item: Any) -> Any:
    if dataclasses.is_dataclass(item):
        return _fields(item)
    if isinstance(item, Enum):
        return item.value
    if isinstance(item, (tuple, list)):
        return [_plain(each) for each in item]
    return item


@functools.cache
def _readers(kind: Any) -> dict[str, Reader]:
    """What reads each field. Finding that out is slow, and every message and every journal entry is read so."""
    return {name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}


def _build(kind: Any, fields: Any) -> Any:
    readers = _readers(kind)
    try:
        return kind(**{key: readers[key](value) for key, value in _a(Mapping, fields).items()})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataDamaged(f"a record of type {kind.__name__} cannot be read: {error}") from error


def _reader(hint: Any) -> Reader:
    """What turns JSON into a value of this type; it raises TypeError or ValueError for anything else."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = _reader(next(each for each in arguments if each is not type(None)))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return _row([_reader(each) for each in arguments if each is not Ellipsis], endless=arguments[-1] is Ellipsis)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value: _build(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return cast("Reader", hint)
    if hint is float:
        return lambda value: float(_a((int, float), value))
    kind = origin or hint
    return lambda value: _a(kind, value)


def _row(readers: list[Reader], *, endless: bool) -> Reader:
    """A list of values of one type, or of so many, each of its own."""
    if endless:
        (each,) = readers
        return lambda value: tuple([each(item) for item in _a(list, value)])
    return lambda value: tuple([read(item) for read, item in zip(readers, _a(list, value), strict=True)])


def _a(kind: Any, value: Any) -> Any:
    """Return the value if it is of the kind; JSON's true and false are no numbers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r} is of the wrong type")
    return value
