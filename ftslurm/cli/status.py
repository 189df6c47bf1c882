"""`ftslurm status`: every run in one line, as squeue shows jobs."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import click

from ftslurm.cli.runarg import run_argument

if TYPE_CHECKING:
    from ftslurm.insight.board import Row
    from ftslurm.insight.summary import Summary
    from ftslurm.paths import RunPaths
    from ftslurm.slurm.records import JobInfo

EXAMPLES = """\b
Examples:
  ftslurm status                                      # your runs of the last 7 days, newest first
  ftslurm status 101 --watch                          # redraw until the run has ended
  ftslurm status -o +EXCLUDED,DURABLE                 # more columns; -o NAME,PHASE,STEP: only these
  ftslurm status --json | jq '.runs[] | select(.standing == "lost") | .run_id'
  ftslurm status 101 --parsable -h -o PHASE           # one word for a script
\b
Columns:
  STEP      training step of the newest whole checkpoint, CKPT_AGE how long ago it was written
  PHASE     what the run's journal says; `lost` and `ended?` where its job is gone and it has not ended by its own word
  HEALTH    nodes that are not healthy (docs/health.md); also behind the nodelist, and in the JSON with every reason
  -         not known; the JSON has null there
\b
Exit codes:
  0 shown; 2 no such run or column; 65 a journal is damaged (all other runs are shown); 74 a folder cannot be read.
  Slurm not answering is no error: what the journals say is shown, with a line on stderr.
"""
DAYS = 7.0
REDRAW_S = 2.0
ASK_S = 10.0
ASK_SELDOM_S = 60.0


class Draw(Protocol):
    """Gives the lines of a picture, cut to a width."""

    def __call__(self, *, width: int | None) -> list[str]:
        """The lines."""
        ...


Show = Callable[[Draw, list[str]], None]


@dataclass(frozen=True)
class _Look:
    """How the rows are to be printed."""

    columns: str | None
    header: bool
    parsable: bool
    as_json: bool

    def lines(self, rows: Sequence[Row], *, width: int | None) -> list[str]:
        from ftslurm.insight import table

        if self.as_json:
            document = {"meta": {"schema": 1, "time": round(time.time(), 3)}, "runs": [row.plain() for row in rows]}
            return [json.dumps(document, indent=2)]
        columns = table.choose(self.columns)
        if self.parsable:
            return table.parsable(rows, columns, header=self.header)
        return table.table(rows, columns, header=self.header, width=width)


@click.command(epilog=EXAMPLES)
@run_argument("names", "[RUN_OR_JOB]...", nargs=-1)
@click.option("--watch", is_flag=True, help="Redraw every 2 s until every run named has ended; end with Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--parsable", is_flag=True, help="Columns separated by |, nothing cut.")
@click.option("-h", "--noheader", is_flag=True, help="No line of headers.")
@click.option("-o", "--format", "columns", metavar="COLS", help="Columns; +COLS adds to the usual ones.")
@click.option(
    "--all", "everything", is_flag=True, help=f"Also runs that have been quiet for more than {DAYS:.0f} days."
)
def status(
    names: tuple[str, ...],
    *,
    watch: bool,
    as_json: bool,
    parsable: bool,
    noheader: bool,
    columns: str | None,
    everything: bool,
) -> int:
    """Show runs: what each is doing, with which attempt, on which nodes, how far its checkpoints have come.

    RUN_OR_JOB is a run id, a job id or a run's folder; without any, your runs of the last days are shown.
    """
    from ftslurm.insight import table

    table.choose(columns)
    look = _Look(columns=columns, header=not noheader, parsable=parsable, as_json=as_json)
    board = Board(names, everything=everything)
    if watch:
        return _watch(board, look)
    rows = board.rows(fresh=True)
    for line in look.lines(rows, width=_width()):
        click.echo(line)
    if not rows:
        click.echo(
            "no run yet" if everything else f"no run in the last {DAYS:.0f} days; --all shows older ones", err=True
        )
    _complain(board.problems)
    return board.code


class Board:
    """The runs that are shown, put together again and again."""

    def __init__(self, names: Sequence[str], *, everything: bool) -> None:
        """`names` are those of the command line; without any, all runs are shown, or those of the last days."""
        from ftslurm.insight.summary import Cache

        self._names = tuple(names)
        self._days = float("inf") if everything else DAYS
        self._cache = Cache()
        self._slurm = _Slurm()
        self.code = 0
        self.problems: list[str] = []

    def rows(self, *, fresh: bool = False) -> list[Row]:
        """One row a run, newest first; `fresh` has Slurm asked even if it was asked a moment ago.

        Raises:
            UsageError: a name is not that of a run.
        """
        from ftslurm.errors import DataDamaged
        from ftslurm.insight import board, index

        paths = self._paths()
        jobs = index.jobs_by_run(*{each.root.parent for each in paths})
        told: dict[board.Identity, Summary] = {}
        damaged: dict[board.Identity, DataDamaged] = {}
        for each in paths:
            who = index.identity(each, jobs)
            try:
                told[who] = self._cache.of(each)
            except DataDamaged as error:
                damaged[who] = error
        answer = self._slurm.jobs(
            [job for who, summary in told.items() for job in _may_live(who.job_ids, summary)], fresh
        )
        self.code = DataDamaged.exit_code if damaged else 0
        self.problems = [*map(str, damaged.values()), *([self._slurm.problem] if self._slurm.problem else [])]
        now = time.time()
        return [
            board.damaged(who, str(damaged[who])) if who in damaged else board.row(who, told[who], answer, now)
            for who in (index.identity(each, jobs) for each in paths)
        ]

    @property
    def endless(self) -> bool:
        """Whether there is no end to wait for: no run was named."""
        return not self._names

    def _paths(self) -> list[RunPaths]:
        from ftslurm import runs
        from ftslurm.insight import index

        if self._names:
            found = [runs.find_run(name) for name in self._names]
            return list({paths.root.resolve(): paths for paths in found}.values())
        return index.recent(self._days)


class _Slurm:
    """Slurm's word on jobs: one query for all of them, seldom, and more seldom while nothing changes."""

    def __init__(self) -> None:
        self.problem = ""
        self._known: dict[str, JobInfo] | None = None
        self._about: frozenset[str] = frozenset()
        self._next = float("-inf")
        self._pause_s = ASK_S

    def jobs(self, wanted: Sequence[str], fresh: bool) -> dict[str, JobInfo] | None:  # noqa: FBT001 - passed through
        """What slurmctld knows of these jobs; None when it does not answer."""
        from ftslurm.errors import FtslurmError
        from ftslurm.slurm.client import SlurmClient

        if not fresh and time.monotonic() < self._next and frozenset(wanted) <= self._about:
            return self._known
        before = self._known
        try:
            self._known, self.problem = SlurmClient().jobs(wanted), ""
        except FtslurmError as error:
            self._known, self.problem = None, f"Slurm cannot be asked, so this is what the journals say: {error}"
        self._about = frozenset(wanted)
        self._pause_s = min(self._pause_s * 1.5, ASK_SELDOM_S) if self._known == before else ASK_S
        self._next = time.monotonic() + self._pause_s
        return self._known


def _may_live(linked: Sequence[str], summary: Summary) -> list[str]:
    """The jobs to ask about: all of a run that has not ended, and of one that has, those that came later."""
    if not summary.over:
        return list(dict.fromkeys([*linked, *([summary.job_id] if summary.job_id else [])]))
    return list(linked[linked.index(summary.job_id) + 1 :]) if summary.job_id in linked else list(linked)


def _width() -> int | None:
    """Lines are cut to the terminal's width, where there is one."""
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else None


def _complain(problems: Sequence[str]) -> None:
    from ftslurm.insight.text import visible

    for problem in problems:
        click.echo(f"ftslurm: {visible(problem)}", err=True)


def _watch(board: Board, look: _Look) -> int:
    """Draw until every run that was named has ended."""
    from ftslurm.insight.board import Standing

    draw = _in_place if sys.stdout.isatty() and not (look.parsable or look.as_json) else _in_blocks
    with draw() as show:
        while True:
            rows = board.rows()
            show(functools.partial(look.lines, rows), board.problems)
            if not board.endless and all(row.standing in (Standing.OVER, Standing.DAMAGED) for row in rows):
                return board.code
            time.sleep(REDRAW_S)


@contextmanager
def _in_place() -> Iterator[Show]:
    """Redraw on the terminal; the last picture stays."""
    from rich.live import Live
    from rich.text import Text

    from ftslurm.insight.text import visible

    with Live(auto_refresh=False, vertical_overflow="visible") as live:

        def show(draw: Draw, problems: list[str]) -> None:
            lines = [*draw(width=live.console.width), *map(visible, problems)]
            live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)

        yield show


@contextmanager
def _in_blocks() -> Iterator[Show]:
    """Print one picture after the other, complaints to stderr when they change."""
    said: list[str] = []

    def show(draw: Draw, problems: list[str]) -> None:
        for line in draw(width=None):
            click.echo(line)
        if problems != said:
            _complain(problems)
            said[:] = problems
        sys.stdout.flush()

    yield show
