"""Events and actions as JSON objects and back: the journal's and the control channel's form of them.

A record is ``{"type": <class name>, <field>: <value>, ...}``. Fields with their default value are left out, so that
journals stay readable; fields that a reader does not know are refused, because a journal of a newer version must not
be replayed into different decisions.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

from ftslurm.core import actions, conditions, events, fabric, survey, symptoms, working
from ftslurm.errors import DataDamaged

_KINDS: dict[str, type[Any]] = {
    name: kind
    for module in (events, conditions, survey, fabric, symptoms, working, actions)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, (events.Event, actions.Action))
}
_HINTS: dict[type[Any], dict[str, Any]] = {}


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


def _hints(kind: type[Any]) -> dict[str, Any]:
    """Reading them is slow, and this is done for every message."""
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def _build(kind: type[Any], fields: Any) -> Any:
    hints = _hints(kind)
    try:
        fields = _a(Mapping, fields)
        return kind(**{key: _shaped(hints[key], value) for key, value in fields.items()})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataDamaged(f"a record of type {kind.__name__} cannot be read: {error}") from error


def _shaped(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [each for each in typing.get_args(hint) if each is not type(None)]
        return None if value is None else _shaped(inner[0], value)
    if origin is tuple:
        arguments, value = typing.get_args(hint), _a(list, value)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_shaped(arguments[0], each) for each in value)
        return tuple(_shaped(each, item) for each, item in zip(arguments, value, strict=True))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if hint is float:
        return float(_a((int, float), value))
    return _a(origin or hint, value)


def _a(kind: Any, value: Any) -> Any:
    """Return the value if it is of the kind; JSON's true and false are no numbers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r} is of the wrong type")
    return value
