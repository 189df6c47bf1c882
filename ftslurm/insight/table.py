r"""Tables as squeue draws them: upper-case headers, numbers to the right, the last column free.

`-` stands for what is not known. In the parsable form columns are separated by `|`, with none at the end of a line; a
`|` inside a cell is written `\x7c`, so that every line has the same number of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ftslurm.errors import UsageError
from ftslurm.insight.board import Row
from ftslurm.insight.text import clock, folded, visible

UNKNOWN = "-"
_CUT = "+"
_NAME_CHARS = 24
_LINE_CHARS = 1000
_LAST_CHARS = 12
_GIVEN_UP = ("ATTEMPT", "TIME", "CKPT_AGE", "ST", "NODES", "TIME_LEFT")
"""What a narrow table goes without, the first first."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its header, what it shows of a run (None: not known), and whether it is a number."""

    name: str
    cell: Callable[[Row], object]
    number: bool = False


def _clock(seconds: float | None) -> str | None:
    return None if seconds is None else clock(seconds)


_COLUMNS = (
    Column("JOBID", lambda row: row.job_id, number=True),
    Column("NAME", lambda row: row.name),
    Column("ST", lambda row: row.state_short),
    Column("PHASE", lambda row: row.phase),
    Column("ATTEMPT", lambda row: row.summary.attempt, number=True),
    Column("NODES", lambda row: row.num_nodes, number=True),
    Column("STEP", lambda row: row.summary.newest.step if row.summary.newest else None, number=True),
    Column("CKPT_AGE", lambda row: _clock(row.checkpoint_age_s), number=True),
    Column("TIME", lambda row: _clock(row.time_s), number=True),
    Column("TIME_LEFT", lambda row: _clock(row.left_s), number=True),
    Column("NODELIST(REASON)", lambda row: row.nodelist_or_reason or None),
)
_MORE = (
    Column("CODE", lambda row: row.summary.code, number=True),
    Column("DURABLE", lambda row: row.summary.durable.step if row.summary.durable else None, number=True),
    Column("EPOCH", lambda row: row.summary.epoch or None, number=True),
    Column("EXCLUDED", lambda row: folded(row.summary.excluded) or None),
    Column("FOLDER", lambda row: row.run_dir),
    Column("HEALTH", lambda row: row.health or None),
    Column("RANKS", lambda row: row.summary.ranks, number=True),
    Column("REQUEUES", lambda row: row.summary.requeues if row.summary.entries else None, number=True),
    Column("RUN", lambda row: row.run_id),
    Column("STATE", lambda row: row.job_state),
    Column("SUPERVISOR", lambda row: row.summary.supervisor or None),
    Column("WANTED", lambda row: row.summary.wanted, number=True),
)
DEFAULT = tuple(column.name for column in _COLUMNS)
NAMES = (*DEFAULT, *(column.name for column in _MORE))
_BY_NAME = {column.name: column for column in (*_COLUMNS, *_MORE)}
_BY_NAME["NODELIST"] = _BY_NAME["REASON"] = _BY_NAME["NODELIST(REASON)"]


def choose(text: str | None) -> tuple[Column, ...]:
    """Return the columns of `-o`: names separated by commas, or `+NAME,NAME` for the usual ones and these.

    Raises:
        UsageError: there is no such column.
    """
    if text is None:
        return _COLUMNS
    more = text.startswith("+")
    names = [name.strip().upper() for name in text.lstrip("+").split(",") if name.strip()]
    unknown = [name for name in names if name not in _BY_NAME]
    if unknown or not names:
        raise UsageError(
            f"there is no column {', '.join(map(visible, unknown)) or visible(repr(text))}",
            hint=f"columns are {', '.join(NAMES)}",
        )
    chosen = [_BY_NAME[name] for name in names]
    if not more:
        return tuple(chosen)
    # What was added stands before the last column, which is as long as it likes to be.
    added = [column for column in chosen if column not in _COLUMNS]
    return (*_COLUMNS[:-1], *added, _COLUMNS[-1])


def table(
    rows: Iterable[Row], columns: Sequence[Column], *, header: bool = True, width: int | None = None
) -> list[str]:
    """The lines of a table; with `width` names and the last column are cut so that lines fit."""
    cells = [[_cell(column, row) for column in columns] for row in rows]
    if width is not None:
        limits = [_NAME_CHARS if column.name == "NAME" else _LINE_CHARS for column in columns]
        cells = [[_cut(text, limit) for text, limit in zip(line, limits, strict=True)] for line in cells]
    if header:
        cells.insert(0, [column.name for column in columns])
    widths = [max((len(line[index]) for line in cells), default=0) for index in range(len(columns))]
    lines = []
    for line in cells:
        parts = [
            text.rjust(size) if column.number else text.ljust(size)
            for column, text, size in zip(columns, line, widths, strict=True)
        ]
        text = " ".join(parts).rstrip()
        lines.append(text if width is None else _cut(text, width))
    return lines


def fitting(rows: Sequence[Row], columns: Sequence[Column], width: int) -> list[Column]:
    """Those of the columns that fit into a width, with some room for the last; which run it is always stays."""
    kept = list(columns)
    for name in _GIVEN_UP:
        beside_last = table(rows, kept[:-1], width=_LINE_CHARS)
        if max(map(len, beside_last)) + _LAST_CHARS <= width:
            break
        kept = [column for column in kept if column.name != name]
    return kept


def parsable(rows: Iterable[Row], columns: Sequence[Column], *, header: bool = True) -> list[str]:
    """The lines for programs."""
    lines = ["|".join(column.name for column in columns)] if header else []
    lines += ["|".join(_cell(column, row).replace("|", "\\x7c") for column in columns) for row in rows]
    return lines


def _cell(column: Column, row: Row) -> str:
    value = column.cell(row)
    return UNKNOWN if value is None or value == "" else visible(str(value))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + _CUT
