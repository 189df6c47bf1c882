"""`ftslurm status --watch`: a picture that is kept up to date, or one line for each change where nobody can paint."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ftslurm.cli.interruption import ended_as_interrupted

if TYPE_CHECKING:
    from ftslurm.cli.screen import Screen
    from ftslurm.insight.board import Row
    from ftslurm.insight.gathering import Board, Picture
    from ftslurm.insight.glance import Happening
    from ftslurm.insight.table import Column

INTERVAL_S = 2.0
REDRAW_S = 1.0
SPARE = 10.0
"""A picture of thousands of runs comes more seldom: a login host is not there for displays."""
LEAVE = frozenset("qQ\x04")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How it is to be shown. `columns` are those that were asked for by name, if any."""

    columns: str | None
    header: bool
    parsable: bool
    as_json: bool
    interval_s: float = INTERVAL_S


def watch(board: Board, first: Picture, look: Look) -> int:
    """Show the runs until every run that was named has ended, or somebody leaves; returns the exit code."""
    from ftslurm.cli.screen import can_be_painted

    paints = can_be_painted() and not (look.parsable or look.as_json)
    return _painted(board, first, look) if paints else _told(board, first, look)


def _ended(board: Board, picture: Picture) -> bool:
    from ftslurm.insight.board import Standing

    over = (Standing.OVER, Standing.DAMAGED)
    return not board.endless and all(row.standing in over for row in picture.rows)


# ------------------------------------------------------------------------------------------------------- in lines


def _told(board: Board, picture: Picture, look: Look) -> int:
    """One line for each change."""
    from ftslurm.insight.changes import Changes

    changes, said = Changes(), picture.problems[:0]
    if look.parsable and look.header:
        _print(_table(look, [], header=True))
    while True:
        for row, happened in changes.news(picture.rows):
            _print(_lines(look, row, happened, picture.at))
        if picture.problems != said:
            said = picture.problems
            complain(said)
        if _ended(board, picture):
            return picture.code
        time.sleep(look.interval_s)
        picture = board.picture()


def _lines(look: Look, row: Row, happened: list[Happening], now: float) -> Sequence[str]:
    from ftslurm.insight import changes

    if look.as_json:
        return [json.dumps(changes.record(row, happened, now))]
    return _table(look, [row], header=False) if look.parsable else list(changes.words(row, happened, now))


def _table(look: Look, rows: list[Row], *, header: bool) -> list[str]:
    from ftslurm.insight import table

    return table.parsable(rows, table.choose(look.columns), header=header)


def complain(problems: Sequence[str]) -> None:
    """Say on stderr what is wrong with a picture."""
    from ftslurm.insight.text import visible

    for problem in problems:
        click.echo(f"ftslurm: {visible(problem)}", err=True)


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------------------ painted


class Gatherer(threading.Thread):
    """Looks at the runs again and again, beside the display: storage or Slurm may not answer, and keys must."""

    def __init__(self, board: Board, first: Picture, interval_s: float, wake: Callable[[], None]) -> None:
        super().__init__(name="gatherer", daemon=True)
        self._board, self._interval_s, self._wake = board, interval_s, wake
        self._over = threading.Event()
        self.picture = first
        self.error: BaseException | None = None

    def run(self) -> None:
        """Until it is told that it is over."""
        took_s = 0.0
        while not self._over.wait(max(self._interval_s, took_s * SPARE)):
            began_s = time.thread_time()
            try:
                self.picture = self._board.picture()
            except Exception as error:  # noqa: BLE001 - raised again where the command can end
                self.error = error
                self._over.set()
            took_s = time.thread_time() - began_s
            self._wake()

    def end(self) -> None:
        """No further picture is wanted."""
        self._over.set()


def _painted(board: Board, first: Picture, look: Look) -> int:
    """Paint until it is over; the last picture stays on the terminal, unless somebody has interrupted it."""
    from ftslurm.cli.screen import Screen

    with ended_as_interrupted(), Screen() as screen:
        gatherer = Gatherer(board, first, look.interval_s, screen.wake)
        gatherer.start()
        try:
            shown = _paint(board, gatherer, look, screen)
        finally:
            gatherer.end()
    for line in shown:
        click.echo(line)
    return gatherer.picture.code


def _paint(board: Board, gatherer: Gatherer, look: Look, screen: Screen) -> list[str]:
    """The last picture, in lines."""
    from ftslurm.insight import table

    columns = table.choose(look.columns)
    while True:
        picture = gatherer.picture
        lines = list(_drawn(picture, columns, look, screen.size()))
        screen.paint(lines)
        if gatherer.error is not None:
            raise gatherer.error
        if _ended(board, picture) or LEAVE & set(screen.wait(min(REDRAW_S, look.interval_s))):
            return lines[:-1]


def _drawn(picture: Picture, columns: Sequence[Column], look: Look, size: tuple[int, int]) -> Iterator[str]:
    """The lines with their colours, as far as the terminal has any."""
    from rich.console import Console

    from ftslurm.insight import view

    # Its own size is asked for each time: it may have been changed.
    console = Console(width=size[0], highlight=False)
    for line in view.lines(picture, columns, time.time(), chosen=look.columns is not None, size=size):
        with console.capture() as captured:
            console.print(line, end="", no_wrap=True, overflow="crop", crop=True)
        yield captured.get()
