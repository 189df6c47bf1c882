"""Reading the older JSON strictly: one object, no key twice, no endless nesting, no numbers that are none.

The older form wrote seconds and minutes as bare numbers; what they mean is said by the key's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftslurm.config import text_of
from ftslurm.errors import ConfigError

MAX_DEPTH = 20


def read(path: Path) -> dict[str, Any]:
    """The object in the file.

    Raises:
        ConfigError: it cannot be read, or is not what it should be.
    """
    text = text_of(path)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}:{error.colno}: {error.msg}", hint="is it JSON?") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected an object with the keys fault_tolerance, checkpoint, state_persistence")
    if _depth(value) > MAX_DEPTH:
        raise ConfigError(f"{path}: nested more than {MAX_DEPTH} levels deep")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; which of two values of one key was meant, nobody knows."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {ascii(name)[:100]} stands twice in one object")
        found[name] = value
    return found


def _constant(word: str) -> Any:  # noqa: ANN401 - never returns
    raise ValueError(f"{word} is no number")


def _depth(value: Any) -> int:  # noqa: ANN401 - JSON
    """How deeply a value is nested, counted level by level: a recursion would be as deep as the input wants."""
    level, depth = [value], 0
    while level:
        level = [inner for each in level for inner in _inside(each)]
        depth += 1
    return depth


def _inside(value: Any) -> Iterator[Any]:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def shown(value: Any) -> str:  # noqa: ANN401 - JSON
    """A value on one line of ASCII, whatever it holds: fit for a comment and for a terminal."""
    return json.dumps(value)


def name_of(path: tuple[str, ...]) -> str:
    """A key with its sections, as in checkpoint.strategy; unusual ones in quotes."""
    return ".".join(each if each.isascii() and each.replace("_", "").isalnum() else shown(each) for each in path)
