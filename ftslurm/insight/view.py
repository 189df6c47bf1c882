"""A picture of runs as lines for a terminal of any size: a table of all, and below it each run that is alive.

2 runs: 1 live, 1 over                            Slurm spoke 3 s ago    14:02:55    q leaves
JOBID NAME      ST PHASE    ATTEMPT NODES STEP ...
gpt-small-20260225-abcdef, job 101: training
  steps  400, 12.1 a second, saved 0:32 ago; on shared storage: 380
  time   [###########.........] 42:10 of 1:00:00, 17:50 left: about step 12800 by then
  nodes  ooo-o.   n4 lost
  14:01:12 node_unreachable: attempt 1 trains from step 300, 5.6 s later; n4 was silent for 3.1 s ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from ftslurm.insight import strip, table
from ftslurm.insight.board import Standing
from ftslurm.insight.text import clock, count, time_of_day, visible

if TYPE_CHECKING:
    from ftslurm.insight.board import Row
    from ftslurm.insight.gathering import Picture
    from ftslurm.insight.glance import Happening
    from ftslurm.insight.table import Column

STALE_S = 15.0
HAPPENINGS = 3
_BAR = (10, 40)
_BESIDE_BAR = 76
_ORDER = (
    Standing.LIVE, Standing.UNCERTAIN, Standing.LOST, Standing.DAMAGED, Standing.WAITING, Standing.OVER,
)  # fmt: skip
_STYLES = {
    Standing.LOST: "bold reverse",
    Standing.DAMAGED: "bold reverse",
    Standing.OVER: "dim",
    Standing.WAITING: "dim",
}


def lines(
    picture: Picture, columns: Sequence[Column], now: float, *, chosen: bool, size: tuple[int, int]
) -> list[Text]:
    """The lines of a screen of `size` (columns, rows), at most so many as it has rows.

    Of the usual columns those are left out that there is no room for; of columns that were `chosen`, none.
    """
    width, height = size
    rows = sorted(picture.rows, key=lambda row: _ORDER.index(row.standing))
    problems = [Text(visible(problem), style="bold") for problem in picture.problems]
    top = [_header(picture, now, width), *problems[:3]]
    blocks = [_block(row, width) for row in rows if row.standing is not Standing.OVER or len(rows) == 1]
    room = max(height - len(top) - 1, 1)
    shown = _rows_in(room, len(rows), sum(map(len, blocks)))
    body = _table(rows[:shown], columns, width, chosen=chosen)
    if shown < len(rows):
        body.append(Text(f"and {count(len(rows) - shown, 'run')} more", style="dim"))
    body += [line for block in blocks for line in block]
    kept = [*top, *body][: max(height - 1, 1)]
    if height > 1:
        kept.append(_legend())
    for line in kept:
        line.truncate(width)
    return kept


def _rows_in(room: int, rows: int, below: int) -> int:
    """How many rows of the table there is room for: all where possible, and half of the screen in any case."""
    if rows + 1 + below <= room:
        return rows
    # A line of headers, and one that counts what is not shown.
    return min(rows, max(room // 2, room - below, 1) - 2) if rows + 1 > room // 2 else rows


def _header(picture: Picture, now: float, width: int) -> Text:
    standings = Counter(row.standing for row in picture.rows)
    each = ", ".join(f"{standings[standing]} {standing}" for standing in _ORDER if standings[standing])
    left = count(len(picture.rows), "run") + (f": {each}" if each else "")
    told = f"Slurm spoke {clock(now - picture.asked)} ago" if picture.asked is not None else ""
    if now - picture.at > STALE_S:
        told = f"NOTHING NEW FOR {clock(now - picture.at)}: the storage of the journals does not answer"
    right = "   ".join(part for part in (told, time_of_day(now)) if part)
    return Text(f"{left}{right:>{max(width - len(left), len(right) + 2)}}", style="bold")


def _legend() -> Text:
    text = Text("q leaves   ", style="dim")
    for mark in strip.Mark:
        text.append(mark.value, style=mark.colour).append(f" {mark.word}  ", style="dim")
    return text


def _table(rows: Sequence[Row], columns: Sequence[Column], width: int, *, chosen: bool) -> list[Text]:
    kept = columns if chosen else table.fitting(rows, columns, width)
    head, *others = table.table(rows, kept, width=width)
    found = [Text(head, style="underline")]
    return found + [Text(line, style=_STYLES.get(row.standing, "")) for line, row in zip(others, rows, strict=True)]


# ------------------------------------------------------------------------------------------------------ one run


def _block(row: Row, width: int) -> list[Text]:
    """A run at length."""
    job = f", job {row.job_id}" if row.job_id else ""
    title = Text(visible(f"{row.run_id}{job}: {row.phase}"), style="bold")
    if row.reason:
        title.append(visible(f" ({row.reason})"), style="not bold")
    found = [title]
    if row.summary.newest is not None:
        found.append(_steps(row))
    if row.time_s is not None and row.left_s is not None:
        found.append(_time(row, width))
    marks = strip.marks(row.summary)
    if marks and row.standing in (Standing.LIVE, Standing.UNCERTAIN):
        found += _nodes(marks, width)
    found += [_happening(each) for each in row.summary.glance.happenings[-HAPPENINGS:]]
    return found


def _steps(row: Row) -> Text:
    told = row.summary
    pace = told.glance.steps_per_s
    parts = [f"{told.newest.step if told.newest else 0}"]
    parts += [f"{pace:.3g} a second"] if pace is not None else []
    parts += [f"saved {clock(row.checkpoint_age_s)} ago"] if row.checkpoint_age_s is not None else []
    where = f"on shared storage: {told.durable.step}" if told.durable else "none on shared storage yet"
    return Text(f"  steps  {', '.join(parts)}; {where}")


def _time(row: Row, width: int) -> Text:
    """How much of the job's time limit is used up, and how far the training will have come when it is."""
    used, left = row.time_s or 0.0, row.left_s or 0.0
    share = used / (used + left) if used + left else 1.0
    cells = min(max(width - _BESIDE_BAR, _BAR[0]), _BAR[1])
    full = int(share * cells)
    text = Text("  time   [")
    text.append("#" * full, style=strip.Mark.SPARE.colour).append("." * (cells - full), style="dim")
    text.append(f"] {clock(used)} of {clock(used + left)}, {clock(left)} left{_by_then(row, left)}")
    return text


def _by_then(row: Row, left: float) -> str:
    newest, pace = row.summary.newest, row.summary.glance.steps_per_s
    if newest is None or pace is None or row.checkpoint_age_s is None:
        return ""
    return f": about step {newest.step + pace * (row.checkpoint_age_s + left):.0f} by then"


def _nodes(marks: dict[str, strip.Mark], width: int) -> list[Text]:
    text = Text("  nodes  ")
    for piece, mark in strip.strip(marks):
        text.append(piece, style=mark.colour)
    names = Text("  ").join(Text(visible(words), style=mark.colour) for words, mark in strip.named(marks))
    if not names:
        return _folded(text, width)
    if text.cell_len + names.cell_len + 3 <= width:
        return [text.append("   ").append_text(names)]
    return [*_folded(text, width), Text(" " * 9).append_text(names)]


def _folded(text: Text, width: int) -> list[Text]:
    """A strip that is longer than a line goes on below its beginning."""
    if text.cell_len <= width:
        return [text]
    head, rest = text.divide([width])
    return [head, *_folded(Text(" " * 9).append_text(rest), width)]


def _happening(each: Happening) -> Text:
    """What followed comes before the reason: that may be long, and `explain` has it."""
    text = Text(f"  {time_of_day(each.t)} ")
    text.append(visible(f"{each.cause}: "), style="" if each.over else "bold")
    return text.append(visible(f"{each.then}; {each.text}" if each.then else each.text))
