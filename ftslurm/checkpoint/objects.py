"""Python values as JSON and back, without pickle: settings, counters, states of schedulers, samplers and generators.

Kept exactly, with their types: None, truth values, whole numbers of any size, floats (also those that JSON does not
have), texts, bytes, complex numbers, lists, tuples, sets, dicts with any of these as keys, and deque, Counter and
OrderedDict. Arrays and tensors are not written into the JSON: `pack` hands them out under a key, and `unpack` asks for
them by it. Anything else is an error at save time that names the place: a checkpoint that cannot be loaded is found
when it is made. What JSON does not have is an object with one key that begins with "$", and its value.
"""

from __future__ import annotations

import base64
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftslurm.core.rankindex import DTYPES
from ftslurm.core.strictjson import list_of, refuse
from ftslurm.errors import DataDamaged, UsageError

MAX_DEPTH = 24
_PLAIN = (type(None), bool, int, str)
_SPECIAL = {"nan", "inf", "-inf"}
_LISTS: dict[str, Callable[[list[Any]], Any]] = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}
_PAIRS: dict[str, Callable[[list[Any]], Any]] = {
    "$dict": dict,
    "$ordered": OrderedDict,
    "$counter": lambda pairs: Counter(dict(pairs)),
}


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """What the JSON says of an array: `kind` is numpy, scalar (of numpy) or torch."""

    key: str
    kind: str
    dtype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        return {"$array": [self.key, self.kind, self.dtype, list(self.shape)]}

    @classmethod
    def from_json(cls, record: object) -> ArraySpec:
        """Raises DataDamaged for anything that `to_json` cannot have written."""
        parts = list_of(record, "array")
        if len(parts) != 4 or not all(isinstance(part, str) for part in parts[:3]) or parts[2] not in DTYPES:
            refuse(f"{record!r} does not describe an array")
        shape = tuple(list_of(parts[3], "shape"))
        if any(isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**40 for size in shape):
            refuse(f"{shape!r} is not a shape")
        return cls(parts[0], parts[1], parts[2], shape)


class Packer:
    """Packs values; the arrays in them are collected in `arrays`, by key."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {}

    def pack(self, value: object, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of a value; `path` names it in messages and in the keys of its arrays.

        Raises:
            UsageError: something in it cannot be kept; the message says what and where.
        """
        if path.count("/") > MAX_DEPTH:
            raise UsageError(f"{path} is nested too deeply to be saved")
        if isinstance(value, _PLAIN) and type(value) in _PLAIN:
            return value
        if type(value) is float:
            return value if value - value == 0 else {"$float": repr(value)}
        if kind_of(value):
            return self._array(value, path).to_json()
        if type(value) is list:
            return self._items(value, path)
        return self._special(value, path)

    def _special(self, value: Any, path: str) -> Any:  # noqa: ANN401
        kind = type(value)
        if kind in (bytes, bytearray):
            return {"$bytes": base64.b64encode(value).decode("ascii")}
        if kind is complex:
            return {"$complex": [self.pack(value.real, path), self.pack(value.imag, path)]}
        if kind is tuple:
            return {"$tuple": self._items(value, path)}
        if kind in (set, frozenset):
            return {f"${kind.__name__}": sorted(self._items(value, path), key=repr)}
        if kind is deque:
            return {"$deque": [value.maxlen, self._items(value, path)]}
        if kind is dict and is_plain(value):
            return {key: self.pack(each, f"{path}/{key}") for key, each in value.items()}
        names: dict[type, str] = {dict: "$dict", OrderedDict: "$ordered", Counter: "$counter"}
        if kind in names:
            return {names[kind]: [self._items(pair, f"{path}/{pair[0]!s}") for pair in value.items()]}
        raise UsageError(
            f"{path} cannot be saved: it is a {kind.__module__}.{kind.__qualname__}",
            hint="numbers, texts, lists, dicts, arrays, tensors, or an object with state_dict and load_state_dict",
        )

    def _items(self, values: Any, path: str) -> list[Any]:  # noqa: ANN401
        return [self.pack(value, f"{path}/{index}") for index, value in enumerate(values)]

    def _array(self, value: Any, path: str) -> ArraySpec:  # noqa: ANN401
        kind, dtype = kind_of(value), str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise UsageError(f"{path} cannot be saved: its elements are {dtype}")
        if kind == "torch" and (hasattr(value, "placements") or value.layout is not sys.modules["torch"].strided):
            raise UsageError(f"{path} cannot be saved: it is a distributed or sparse tensor")
        shape = tuple(int(size) for size in value.shape)
        key = f"{path}#{len(self.arrays)}" if 0 not in shape else ""
        if key:
            self.arrays[key] = value
        return ArraySpec(key, kind, dtype, shape)


def is_plain(value: dict[Any, Any]) -> bool:
    """Whether JSON with sorted names keeps it, its order included."""
    names = list(value)
    return all(type(name) is str and not name.startswith("$") for name in names) and names == sorted(names)


def unpack(record: Any, array: Callable[[ArraySpec], Any]) -> Any:  # noqa: ANN401
    """Return the value that `Packer.pack` has packed; `array` gives the arrays.

    Raises:
        DataDamaged: it is not what `pack` writes.
    """
    try:
        return _unpack(record, array)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataDamaged(f"a packed value is malformed: {error}") from error


def _unpack(record: Any, array: Callable[[ArraySpec], Any]) -> Any:  # noqa: ANN401
    if isinstance(record, list):
        return [_unpack(each, array) for each in record]
    if not isinstance(record, dict):
        return record
    name = next(iter(record), "")
    if len(record) == 1 and name.startswith("$"):
        return _unpack_special(name, record[name], array)
    return {key: _unpack(each, array) for key, each in record.items()}


def _unpack_special(name: str, content: Any, array: Callable[[ArraySpec], Any]) -> Any:  # noqa: ANN401
    if name == "$array":
        return array(ArraySpec.from_json(content))
    if name == "$tensor":
        return {name: content}  # `checkpoint.torchstate` knows where it is
    if name == "$float" and content in _SPECIAL:
        return float(content)
    if name == "$bytes" and isinstance(content, str):
        return base64.b64decode(content, validate=True)
    parts = list_of(content, name)
    if name in _LISTS:
        return _LISTS[name](_unpack(parts, array))
    if name in _PAIRS and all(isinstance(pair, list) and len(pair) == 2 for pair in parts):
        return _PAIRS[name]([tuple(pair) for pair in _unpack(parts, array)])
    if name == "$complex" and len(parts) == 2:
        return complex(*_unpack(parts, array))
    if name == "$deque" and len(parts) == 2:
        return deque(_unpack(parts[1], array), maxlen=parts[0])
    return refuse(f"nothing is known of {name!r}")


def specs(record: Any) -> list[ArraySpec]:  # noqa: ANN401
    """Return what the JSON says of all arrays in it, in order. Raises DataDamaged as `unpack`."""
    found: list[ArraySpec] = []
    unpack(record, found.append)
    return found


def kind_of(value: object) -> str:
    """Return what of NumPy or torch a value is: numpy, scalar, torch; "" for nothing of theirs. Imports neither."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return "numpy"
    if numpy is not None and isinstance(value, numpy.generic):
        return "scalar"
    if torch is not None and isinstance(value, torch.Tensor):
        return "torch"
    return ""


def has_state(value: object) -> bool:
    """Return whether a value keeps its own state: it has state_dict and load_state_dict."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))
