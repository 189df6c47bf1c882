"""JSON that is distrusted: one spelling when writing, and checks that name what is wrong when reading.

All functions here return what they were given, or raise DataDamaged. No pickle, no coercion: a number is not a text and
true is not 1.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping


_MAX_SHOWN = 200
MOST_VALUES = 8_000_000
"""In one record. Ours have some twenty for each tensor; each takes up to 100 bytes of memory, and two in the file."""


def encode(record: Mapping[str, Any]) -> bytes:
    """The one spelling of a record: sorted keys, no spaces, ASCII, one line."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def decode(data: bytes, what: str) -> object:
    """Parse JSON strictly: no repeated keys, finite numbers, UTF-8, not too many values. Raises DataDamaged."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise DataDamaged(f"{what} has more than {MOST_VALUES} values")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_no_repeats,
            parse_constant=_no_constants,
            parse_float=_finite_float,
        )
    except (ValueError, RecursionError) as error:
        raise DataDamaged(f"{what} is not valid JSON: {shortened(error)}") from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key is repeated")
    return record


def _no_constants(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite_float(text: str) -> float:
    """1e400 is JSON, and infinity in Python; and no float of ours has as many digits as JSON allows."""
    if len(text) > _MAX_SHOWN or not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is too large or too long a number")
    return float(text)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def shortened(value: object) -> str:
    """As much of a value as a message can bear: it comes from whoever wrote the file."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def refuse(message: str) -> NoReturn:
    """Raise DataDamaged."""
    raise DataDamaged(message)


def fields_of(record: object, keys: tuple[str, ...], what: str) -> dict[str, Any]:
    """`record` itself if it is an object with exactly these keys."""
    if not isinstance(record, dict):
        refuse(f"{what} is not a JSON object")
    if set(record) != set(keys):
        wrong = sorted(set(record) ^ set(keys))
        refuse(f"{what} has missing or unknown keys: {', '.join(map(shortened, wrong[:20]))}")
    return record


def list_of(value: object, what: str) -> list[Any]:
    """`value` itself if it is a list."""
    if not isinstance(value, list):
        refuse(f"{what} is not a list")
    return value


def expect(value: object, wanted: object, what: str) -> None:
    """Refuse any other value than `wanted`."""
    if value != wanted or isinstance(value, bool):
        refuse(f"{what} is {shortened(value)}, not {wanted!r}")


def whole(value: object, what: str, below: int) -> int:
    """`value` itself if it is a whole number, at least 0 and less than `below`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
        refuse(f"{what}={shortened(value)} is not a whole number from 0")
    return value


def finite(value: object, what: str) -> float:
    """`value` itself if it is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        refuse(f"{what}={shortened(value)} is not a finite number")
    return value


def matching(value: object, pattern: re.Pattern[str], what: str) -> str:
    """`value` itself if it is a text that matches `pattern` from end to end."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        refuse(f"{what}={str(value)[:80]!r} is malformed")
    return value


def safe_name(value: object) -> str:
    """`value` itself if it is a relative path that stays in its folder and prints as one line.

    Raises:
        DataDamaged: absolute, `.` or `..`, empty parts, control characters, not UTF-8, or too long.
    """
    if not isinstance(value, str):
        refuse(f"{shortened(value)} is not a file name")
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError:
        refuse(f"file name {shortened(value)} is not UTF-8")
    parts = value.split("/")
    if any(part in {"", ".", ".."} or len(part.encode()) > 255 for part in parts) or len(raw) > 1024:
        refuse(f"file name {value[:200]!r} is not a relative path inside its folder")
    if not _is_one_line(value):
        refuse(f"file name {value!r} has control characters")
    return value


def plain_name(value: object, what: str) -> str:
    """`value` itself if it is a single safe file name."""
    name = safe_name(value)
    if "/" in name:
        refuse(f"{what}={name!r} is malformed")
    return name


def plain_text(value: object, what: str, limit: int) -> str:
    """`value` itself if it is a text of at most `limit` characters that prints as one line."""
    if not isinstance(value, str) or len(value) > limit or not _is_one_line(value):
        refuse(f"{what}={str(value)[:80]!a} is not one line of at most {limit} characters")
    return value


def _is_one_line(text: str) -> bool:
    """No control characters, no halves of characters that UTF-8 cannot say."""
    return not any(
        ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 or char in "\u2028\u2029" or 0xD800 <= ord(char) < 0xE000
        for char in text
    )
