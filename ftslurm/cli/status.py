"""`ftslurm status`: every run in one line, as squeue shows jobs."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ftslurm.cli.garbage import little_garbage
from ftslurm.cli.progress import waiting
from ftslurm.cli.runarg import run_argument
from ftslurm.cli.watch import INTERVAL_S, Look, complain
from ftslurm.cli.watch import watch as keep_up

if TYPE_CHECKING:
    from ftslurm.insight.board import Row

EXAMPLES = """\b
Examples:
  ftslurm status                                      # your runs of the last 7 days, newest first
  ftslurm status --watch                              # a picture that is kept up to date; q leaves
  ftslurm status 101 --watch | tee -a run.log         # off a terminal: one line for each change, until it has ended
  ftslurm status 101 --watch --json                   # the same, one JSON object a line
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
DAYS = 7


@click.command(epilog=EXAMPLES)
@run_argument("names", "[RUN_OR_JOB]...", nargs=-1)
@click.option("--watch", is_flag=True, help="Go on until every run named has ended; q or Ctrl-C leaves.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2, max=3600),
    metavar="SECONDS",
    help=f"How often --watch looks at the journals; {INTERVAL_S:g} s, if left out.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--parsable", is_flag=True, help="Columns separated by |, nothing cut.")
@click.option("-h", "--noheader", is_flag=True, help="No line of headers.")
@click.option("-o", "--format", "columns", metavar="COLS", help="Columns; +COLS adds to the usual ones.")
@click.option("--all", "everything", is_flag=True, help=f"Also runs that have been quiet for more than {DAYS} days.")
@little_garbage()
def status(
    names: tuple[str, ...],
    *,
    watch: bool,
    interval: float | None,
    as_json: bool,
    parsable: bool,
    noheader: bool,
    columns: str | None,
    everything: bool,
) -> int:
    """Show runs: what each is doing, with which attempt, on which nodes, how far its checkpoints have come.

    RUN_OR_JOB is a run id, a job id or a run's folder; without any, your runs of the last days are shown.
    """
    from ftslurm.insight import shared, table
    from ftslurm.insight.gathering import Board
    from ftslurm.slurm.client import SlurmClient

    table.choose(columns)
    look = Look(
        columns=columns, header=not noheader, parsable=parsable, as_json=as_json, interval_s=interval or INTERVAL_S
    )
    if interval is not None and not watch:
        raise click.UsageError("--interval is for --watch")
    client = SlurmClient()
    ask = shared.Shared(client).answer if watch else functools.partial(shared.ask, client)
    board = Board(names, ask, everything=everything)
    with waiting("reading journals", quiet=as_json) as wait:
        picture = board.picture(wait)
    if watch:
        return keep_up(board, picture, look)
    for line in _lines(look, picture.rows):
        click.echo(line)
    if not picture.rows:
        click.echo("no run yet" if everything else f"no run in the last {DAYS} days; --all shows older ones", err=True)
    complain(picture.problems)
    return picture.code


def _lines(look: Look, rows: Sequence[Row]) -> list[str]:
    """The picture as it is printed once."""
    from ftslurm.insight import table

    if look.as_json:
        document = {"meta": {"schema": 1, "time": round(time.time(), 3)}, "runs": [row.plain() for row in rows]}
        return [json.dumps(document, indent=2)]
    columns = table.choose(look.columns)
    if look.parsable:
        return table.parsable(rows, columns, header=look.header)
    return table.table(rows, columns, header=look.header, width=_width())


def _width() -> int | None:
    """Lines are cut to the terminal's width, where there is one."""
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else None
