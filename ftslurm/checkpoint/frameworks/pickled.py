"""Reads a pickle as data: what it would build is written down, and nothing of it is built.

A pickle is a program, and a damaged one may do anything: run code, or ask for a table of 2^31 entries (the C unpickler
grants that). Here a class is only a name, a call is a `Thing` with that name, and every value takes at least one byte
of the pickle. Only the binary opcodes are known; torch, DeepSpeed and Megatron write no others.

Reference: Lib/pickletools.py of CPython, which describes each opcode.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from ftslurm.core.strictjson import refuse
from ftslurm.errors import DataDamaged

_MOST_VALUES = 16_000_000
"""In one pickle. Checkpoint metadata has some eight for each piece of a tensor; a value takes up to 200 bytes here."""
_BYTE, _SHORT, _INT, _UINT, _LONG, _FLOAT = map(struct.Struct, ("<B", "<H", "<i", "<I", "<Q", ">d"))


@dataclass(slots=True, eq=False)
class Thing:
    """An object that the pickle would build: the name of its class, what that is called with, and what it is set to."""

    name: str
    args: Any = ()
    state: Any = None

    def part(self, key: str) -> Any:  # noqa: ANN401 - whatever the pickle says
        """An attribute by its name; None where there is none."""
        return self.state.get(key) if isinstance(self.state, dict) else None


def read(data: bytes, what: str, *, allowed: Callable[[str], bool] | None = None) -> Any:  # noqa: ANN401 - as above
    """What a pickle says: numbers, texts, lists, tuples, dicts, and `Thing` for all else.

    Args:
        data: The pickle, and nothing behind it.
        what: Its name in messages.
        allowed: Which classes may be named, as in `collections.OrderedDict`; left out: all, for none is ever called.

    Raises:
        DataDamaged: it is cut off or no pickle, too large, or names what is not allowed.
    """
    try:
        return _Reader(data, what, allowed).run()
    except (IndexError, struct.error, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataDamaged(f"{what} is cut off or no sound pickle ({type(error).__name__})") from error


class _Reader:
    """The machine: a stack, the places where its marks were set, and a memo."""

    def __init__(self, data: bytes, what: str, allowed: Callable[[str], bool] | None) -> None:
        self._data = data
        self._what = what
        self._allowed = allowed
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._left = _MOST_VALUES

    def run(self) -> Any:  # noqa: ANN401 - as above
        """Follow the opcodes to the end."""
        data, opcodes = self._data, self._OPCODES
        while True:
            code = data[self._at]
            self._at += 1
            if code == 0x2E:  # STOP
                break
            self._left -= 1
            action = opcodes.get(code)
            if action is None or self._left < 0:
                self._fail(f"opcode {code:#04x}" if action is None else f"more than {_MOST_VALUES} values")
            action(self)
        if len(self._stack) != 1 or self._at != len(data):
            self._fail("something behind its end")
        return self._stack[0]

    def _fail(self, has: str) -> NoReturn:
        refuse(f"{self._what} is no pickle of a checkpoint: it has {has}")

    # ------------------------------------------------------------------------------------------------- values

    def _take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise IndexError
        return self._data[start : self._at]

    def _number(self, form: struct.Struct) -> int:
        value: int
        (value,) = form.unpack_from(self._data, self._at)
        self._at += form.size
        return value

    def _push(self, value: Any) -> None:  # noqa: ANN401 - as above
        self._stack.append(value)

    def _push_number(self, form: struct.Struct) -> None:
        self._stack.append(self._number(form))

    def _push_long(self, form: struct.Struct) -> None:
        self._stack.append(int.from_bytes(self._take(self._number(form)), "little", signed=True))

    def _push_bytes(self, form: struct.Struct) -> None:
        self._stack.append(self._take(self._number(form)))

    def _push_text(self, form: struct.Struct) -> None:
        self._stack.append(self._take(self._number(form)).decode("utf-8", "surrogatepass"))

    # --------------------------------------------------------------------------------------------- containers

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _push_tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        start = len(self._stack) - count
        items, self._stack[start:] = tuple(self._stack[start:]), []
        self._stack.append(items)

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if isinstance(key, _PLAIN) else Thing("key", key)] = value

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _append(self) -> None:
        self._extend([self._stack.pop()])

    def _dict_since_mark(self) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._update(items)

    # ------------------------------------------------------------------------------------------------ objects

    def _global(self) -> None:
        lines = []
        for _ in range(2):
            end = self._data.index(b"\n", self._at)
            lines.append(self._take(end - self._at).decode("utf-8"))
            self._at += 1
        self._name(*lines)

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        whole = f"{module}.{name}"
        if self._allowed is not None and not self._allowed(whole):
            self._fail(f"{whole[:100]!r} in it, which has no business there")
        self._stack.append(Thing(whole))

    def _call(self) -> None:
        args, called = self._stack.pop(), self._stack.pop()
        if called.name == "builtins.getattr":  # how Python 3.11 writes a member of an enumeration
            of, name = args
            self._name(of.name, name)
            return
        is_dict = called.name == "collections.OrderedDict" and not args
        self._stack.append({} if is_dict else Thing(called.name, args))

    def _call_with_names(self) -> None:
        self._stack.pop()
        self._call()

    def _build(self) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], Thing):
            self._stack[-1].state = state

    def _foreign(self) -> None:
        self._stack.append(Thing("stored elsewhere", self._stack.pop()))

    # --------------------------------------------------------------------------------------------------- memo

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, form: struct.Struct) -> None:
        self._stack.append(self._memo[self._number(form)])

    _OPCODES: ClassVar[dict[int, Callable[[_Reader], object]]] = {
        0x80: lambda self: self._take(1),  # PROTO
        0x95: lambda self: self._take(8),  # FRAME
        ord("("): _mark,
        ord("0"): lambda self: self._stack.pop(),
        ord("1"): _since_mark,
        ord("2"): lambda self: self._stack.append(self._stack[-1]),
        ord("N"): lambda self: self._stack.append(None),
        0x88: lambda self: self._stack.append(True),
        0x89: lambda self: self._stack.append(False),
        ord("K"): lambda self: self._push_number(_BYTE),
        ord("M"): lambda self: self._push_number(_SHORT),
        ord("J"): lambda self: self._push_number(_INT),
        ord("G"): lambda self: self._push_number(_FLOAT),
        0x8A: lambda self: self._push_long(_BYTE),
        0x8B: lambda self: self._push_long(_UINT),
        0x8C: lambda self: self._push_text(_BYTE),
        ord("X"): lambda self: self._push_text(_UINT),
        0x8D: lambda self: self._push_text(_LONG),
        ord("C"): lambda self: self._push_bytes(_BYTE),
        ord("B"): lambda self: self._push_bytes(_UINT),
        0x8E: lambda self: self._push_bytes(_LONG),
        0x96: lambda self: self._push_bytes(_LONG),
        ord("U"): lambda self: self._push_bytes(_BYTE),
        ord("T"): lambda self: self._push_bytes(_UINT),
        ord("]"): lambda self: self._push([]),
        ord("}"): lambda self: self._push({}),
        0x8F: lambda self: self._push([]),  # EMPTY_SET
        ord(")"): lambda self: self._push_tuple(0),
        0x85: lambda self: self._push_tuple(1),
        0x86: lambda self: self._push_tuple(2),
        0x87: lambda self: self._push_tuple(3),
        ord("t"): lambda self: self._push(tuple(self._since_mark())),
        ord("l"): lambda self: self._push(self._since_mark()),
        ord("d"): _dict_since_mark,
        0x91: lambda self: self._push(self._since_mark()),  # FROZENSET
        ord("a"): _append,
        ord("e"): lambda self: self._extend(self._since_mark()),
        0x90: lambda self: self._extend(self._since_mark()),  # ADDITEMS
        ord("s"): _set_item,
        ord("u"): lambda self: self._update(self._since_mark()),
        ord("c"): _global,
        0x93: _stack_global,
        ord("R"): _call,
        0x81: _call,  # NEWOBJ
        0x92: _call_with_names,  # NEWOBJ_EX
        ord("b"): _build,
        ord("Q"): _foreign,
        ord("q"): lambda self: self._put(self._number(_BYTE)),
        ord("r"): lambda self: self._put(self._number(_UINT)),
        0x94: lambda self: self._put(len(self._memo)),  # MEMOIZE
        ord("h"): lambda self: self._get(_BYTE),
        ord("j"): lambda self: self._get(_UINT),
    }


_PLAIN = (str, int, float, bytes, type(None), Thing)
"""What is safe as a key: the hash of a tuple of tuples of tuples may take for ever."""
