"""`ftslurm nodes --analyze`: how the faults of nodes come, from what is remembered of them or from a trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ftslurm.plan.past import Past
    from ftslurm.plan.patterns import Patterns


def past_of_trace(path: Path, nodes: int | None) -> Past:
    """Read a trace; `nodes`: the size of its fleet.

    Raises:
        StorageError: it cannot be read.
        DataDamaged: it is no trace; the message has file, line and reason.
        UsageError: a smaller fleet than the trace has.
    """
    from ftslurm.plan.sources import of_trace
    from ftslurm.plan.trace import read_trace

    return of_trace(read_trace(path, nodes), f"trace {path}", whole=nodes is not None)


def past_of_the_user(ledger: Path, fleet: Sequence[str], days: float, *, quiet: bool) -> Past:
    """Read ledger, journals and accounting.

    Raises:
        StorageError: the ledger cannot be read.
    """
    from ftslurm.cli.progress import waiting
    from ftslurm.plan.sources import of_the_user
    from ftslurm.slurm.client import SlurmClient

    with waiting("reading ledger, journals and accounting", quiet=quiet):
        return of_the_user(ledger, SlurmClient(), fleet, days)


def show(past: Past, picture: Path | None, *, as_json: bool) -> None:
    """Analyze and print; a past without faults is said on stderr, and is no error.

    Raises:
        UsageError: a picture of another format, or without matplotlib.
        CannotCreate: the picture cannot be written.
    """
    from ftslurm.cli.progress import waiting
    from ftslurm.plan import findings, patterns

    if picture:
        _check(picture)
    if not past.faults and not as_json:
        click.echo("\n".join(findings.sources(past)))
        click.echo("no node has had a fault that anybody wrote down", err=True)
        return
    with waiting("analyzing", quiet=as_json):
        found = patterns.analyse(past)
    if as_json:
        click.echo(json.dumps({"meta": {"schema": 1}, **patterns.plain(found)}, indent=2))
    else:
        click.echo("\n".join(findings.lines(found)))
    if picture and past.faults:
        _draw(found, picture)


def _check(picture: Path) -> None:
    """Before anything is computed.

    Raises:
        UsageError: no picture has this ending.
        CannotCreate: there is no folder to write it to.
    """
    from ftslurm.errors import CannotCreate, UsageError
    from ftslurm.insight.text import visible

    if not picture.parent.is_dir():
        raise CannotCreate(f"cannot write the picture {visible(str(picture))}: there is no such folder")
    if picture.suffix not in {".png", ".svg"}:
        raise UsageError(f"a picture is a .png or a .svg, and not {visible(picture.name)}")


def _draw(found: Patterns, path: Path) -> None:
    from ftslurm.errors import CannotCreate
    from ftslurm.insight.text import visible
    from ftslurm.report.draw_faults import picture

    data = picture(found, path.suffix[1:])
    try:
        path.write_bytes(data)
    except OSError as error:
        raise CannotCreate(f"cannot write the picture {visible(str(path))}: {error.strerror}") from error
    click.echo(f"picture: {path}", err=True)
