r"""Words for people: text made safe for a terminal, durations, times of day.

Rule: whatever comes from outside (names, reasons, the tail of a traceback) goes through `visible` before it is printed.
A journal holds what programs printed, and a terminal obeys what it reads: escape sequences, carriage returns that
overwrite a line, characters that turn the direction of writing. They are shown as `\x1b` and never sent.
"""

from __future__ import annotations

import datetime as dt
import shutil
import unicodedata
from collections.abc import Iterable, Sequence

from ftslurm.errors import UsageError
from ftslurm.slurm import nodeset

NARROWEST = 80
WIDEST = 120
_MINUTE = 60
_HOUR = 3600
_DAY = 86_400


def visible(text: str) -> str:
    """`text` on one line, with every character that a terminal would act on written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def visible_lines(text: str) -> list[str]:
    """The lines of `text`, each made visible; tabs become spaces."""
    return [visible(line) for line in text.expandtabs(4).splitlines()]


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] != "C" and category not in ("Zl", "Zp"):
        return character
    code = ord(character)
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"


def took(seconds: float) -> str:
    """A duration in words: `0.4 s`, `12.3 s`, `3 min 12 s`, `2 h 05 min`, `1 d 02 h`."""
    if seconds < 0:
        return f"-{took(-seconds)}"
    if seconds < 0.0005:
        return "0 s"
    if round(seconds, 1) < _MINUTE:
        return f"{seconds:.1f} s" if round(seconds, 1) else f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR:02d} h"


def clock(seconds: float) -> str:
    """A duration as squeue writes it: `0:05`, `12:03`, `1:02:03`, `1-02:03:04`; never negative."""
    whole = max(int(seconds), 0)
    days, rest = divmod(whole, _DAY)
    hours, rest = divmod(rest, _HOUR)
    minutes, second = divmod(rest, _MINUTE)
    if days:
        return f"{days}-{hours:02d}:{minutes:02d}:{second:02d}"
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


def iso(t: float | None) -> str | None:
    """Epoch seconds as ISO 8601 in UTC, to the millisecond; None stays None."""
    if t is None:
        return None
    return dt.datetime.fromtimestamp(t, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_of_day(t: float) -> str:
    """`14:02:55` in local time."""
    return dt.datetime.fromtimestamp(t).astimezone().strftime("%H:%M:%S")


def day(t: float) -> str:
    """`2026-03-01` in local time."""
    return dt.datetime.fromtimestamp(t).astimezone().strftime("%Y-%m-%d")


def count(number: int, word: str) -> str:
    """`1 attempt`, `2 attempts`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def terminal_width() -> int:
    """Columns to fill: those of the terminal (or COLUMNS), between 80 and 120."""
    return min(max(shutil.get_terminal_size((WIDEST, 24)).columns, NARROWEST), WIDEST)


def folded(nodes: Iterable[str]) -> str:
    """Node names in Slurm's short form; names that cannot be a node's are listed as they are, made visible."""
    names = list(nodes)
    try:
        return nodeset.fold(names)
    except UsageError:
        return ",".join(visible(name) for name in names)


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table, each column as wide as it has to be, the last one free."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    return [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1])).rstrip()
        for row in cells
    ]
