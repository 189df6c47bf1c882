"""`ftslurm report`: a run as a page with pictures, and the same as data."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.garbage import little_garbage
from ftslurm.cli.progress import waiting
from ftslurm.cli.runarg import run_argument

if TYPE_CHECKING:
    from ftslurm.paths import RunPaths
    from ftslurm.report.contents import Contents
    from ftslurm.report.helper import Helper

EXAMPLES = """\b
Examples:
  ftslurm report 101                       # into report/ in the run's folder; also while the run is going on
  ftslurm report 101 --out ~/reports       # somewhere else
  ftslurm report 101 --open                # and show the page in the desktop's browser
  ftslurm report 101 --json | jq .wall_time.ettr
\b
What is written, each with the run's id in its name:
  training_report_*.html   the page: all pictures and tables, in one file that can be sent to somebody
  training_report_*.json   the same as data
  run_timeline_*, training_progress_*, time_spent_*, recovery_*, checkpoints_*, system_resources_*,
  anomaly_detection_heatmap_*   each picture as PNG and SVG
  incidents_*, checkpoints_*, training_progress_*, wall_time_*, system_resources_*   tables as CSV
\b
Exit codes:
  0 written; 2 no such run; 65 the journal is damaged: what can be read of it is in the report; 69 written, but there is
  no browser to --open it with; 73 the folder cannot be made; 74 something cannot be read or written
"""
FRESH_S = 90.0
"""A supervisor renews its lease every 30 s: a younger one is alive, and its story goes on until now."""


@click.command(epilog=EXAMPLES)
@run_argument()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write into; left out: report/ in the run's folder.",
)
@click.option("--open", "opened", is_flag=True, help="Show the page in the desktop's browser.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; files only with --out or --open.")
@little_garbage()
def report(run: str, *, out: Path | None, opened: bool, as_json: bool) -> int:
    """Make a page of what happened to a run: timeline, progress, recoveries, checkpoints, resources, anomalies."""
    from ftslurm import runs
    from ftslurm.errors import DataDamaged
    from ftslurm.report import helper
    from ftslurm.report.contents import gather
    from ftslurm.report.data import document

    paths = runs.find_run(run)
    files = out is not None or opened or not as_json
    page = None
    with helper.helped(paths, wanted=files) as second:
        with waiting("reading the run", quiet=as_json):
            contents = gather(paths, _now(paths))
        if as_json:
            click.echo(json.dumps(document(contents), indent=2, allow_nan=False))
        if files:
            page = _write(contents, out or paths.report, second, tell=not as_json)
    for remark in contents.remarks:
        click.echo(f"note: {remark}", err=True)
    if page is not None and opened:
        _open(page)
    return DataDamaged.exit_code if contents.damage else 0


def _write(contents: Contents, folder: Path, helper: Helper | None, *, tell: bool) -> Path:
    from ftslurm.report.writing import NO_PICTURES, write

    with waiting("drawing", quiet=not tell):
        written = write(contents, folder, helper)
    if tell:
        click.echo(written.page)
        click.echo(f"{len(written.files)} files beside it", err=True)
    if not written.pictures:
        click.echo(f"note: {NO_PICTURES}", err=True)
    return written.page


def _open(page: Path) -> None:
    """Show the page, where there is something to show it with."""
    import socket
    import webbrowser

    from ftslurm.errors import ServiceUnavailable

    whole = page.absolute()
    if not webbrowser.open(whole.as_uri()):
        there = shlex.quote(f"{socket.gethostname()}:{whole}")
        raise ServiceUnavailable(
            "there is no browser here that the page could be opened with",
            hint=f"the page is one file; from a machine that has a browser: scp {there} .",
        )


def _now(paths: RunPaths) -> float | None:
    """The present, for a run that somebody holds; else its story ends with its last entry."""
    from ftslurm import journal

    holder = journal.holder(paths)
    return time.time() if holder is not None and time.time() - holder.t < FRESH_S else None
