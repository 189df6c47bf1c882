"""What a forecast says: numbers, each with what it rests on, as a table for people and as JSON for programs.

One list of parts serves both, so that nothing is in the one and not in the other. A number that nobody knows is None
in JSON and "unknown" in the table, and its reason says what would make it known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TypeAlias

from ftslurm.insight.text import took, visible
from ftslurm.quantities import short_size

Scalar: TypeAlias = float | int | bool | str | None
_GAP = "  "
_LEAST_REASON = 30
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One statement.

    Attributes:
        key: its name for programs; the unit of a number is its end (`_s`, `_bytes`, `_share`).
        label: its name for people.
        value: for programs.
        shown: for people.
        because: the assumption or the source behind it.
    """

    key: str
    label: str
    value: Scalar
    shown: str
    because: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """Some statements on one matter."""

    key: str
    title: str
    rows: tuple[Row, ...]


def seconds(key: str, label: str, value: float | None, because: str = "") -> Row:
    """A time."""
    shown = "unknown" if value is None else took(value) if value < float("inf") else "never"
    return Row(key=f"{key}_s", label=label, value=_plain(value), shown=shown, because=because)


def share(key: str, label: str, value: float, because: str = "") -> Row:
    """A share of something, in percent."""
    return Row(key=f"{key}_share", label=label, value=_plain(value), shown=percent(value), because=because)


def size(key: str, label: str, value: float | None, because: str = "") -> Row:
    """A number of bytes."""
    shown = "unknown" if value is None else short_size(round(value))
    return Row(key=f"{key}_bytes", label=label, value=None if value is None else round(value), shown=shown,
               because=because)  # fmt: skip


def speed(key: str, label: str, value: float | None, because: str = "") -> Row:
    """Bytes in a second."""
    shown = "unknown" if value is None else f"{short_size(round(value))}/s"
    return Row(key=f"{key}_bytes_per_s", label=label, value=None if value is None else round(value), shown=shown,
               because=because)  # fmt: skip


def number(key: str, label: str, value: float | None, because: str = "") -> Row:
    """A number without a unit."""
    shown = "unknown" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return Row(key=key, label=label, value=_plain(value), shown=shown, because=because)


def words(key: str, label: str, value: str, because: str = "") -> Row:
    """A statement that is no number."""
    return Row(key=key, label=label, value=value, shown=value, because=because)


def percent(value: float) -> str:
    """`93.2 %`."""
    return f"{100 * value:.1f} %"


def text(parts: Sequence[Part], width: int) -> str:
    """Return the table, with the reasons in the last column, folded to `width` columns."""
    rows = [row for part in parts for row in part.rows]
    first = max((len(row.label) for row in rows), default=0)
    second = max((len(visible(row.shown)) for row in rows), default=0)
    room = max(width - first - second - 3 * len(_GAP), _LEAST_REASON)
    lines: list[str] = []
    for part in parts:
        lines += ["", part.title.upper()] if lines else [part.title.upper()]
        for row in part.rows:
            reason = wrap(visible(row.because), room, break_on_hyphens=False) or [""]
            head = f"{_GAP}{row.label.ljust(first)}{_GAP}{visible(row.shown).rjust(second)}{_GAP}"
            lines += [f"{head}{reason[0]}".rstrip(), *(" " * len(head) + more for more in reason[1:])]
    return "\n".join(lines) + "\n"


def document(parts: Sequence[Part]) -> dict[str, dict[str, dict[str, Scalar]]]:
    """Return the same for JSON: by part and key, the value and what it rests on."""
    return {part.key: {row.key: {"value": row.value, "because": row.because} for row in part.rows} for part in parts}


def _plain(value: float | None) -> float | None:
    """A number that JSON can hold, and that is the same on every platform."""
    if value is None or not abs(value) < float("inf"):
        return None
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 10**_DIGITS else rounded
