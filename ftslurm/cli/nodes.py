"""`ftslurm nodes`: the node ledger, which remembers the nodes that failed runs."""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ftslurm.core.lemons import Record

EXAMPLES = """\b
Examples:
  ftslurm nodes                                       # every node that a run has given up, worst first
  ftslurm nodes --json | jq '.nodes[] | select(.standing == "lemon") | .node'
  ftslurm nodes --analyze                             # how faults come: which nodes, how often, since when, and again
  ftslurm nodes --analyze --trace faults.json --fleet 400 --picture faults.svg
  ftslurm nodes forgive n3 --reason "DIMM replaced"   # its marks count no more
  ftslurm submit train.yaml --no-ledger               # nothing is excluded for the ledger's sake
\b
Standing:
  lemon      failed more often than chance allows: excluded by `submit` and `resume` for 28 days after its last mark
  probation  was a lemon; the next mark makes it one again
  marked     was given up in the last 28 days, as any node may be
  clean      its marks have decayed, or were forgiven
\b
Exit codes:
  0 shown; 2 no such node in the ledger, or no such trace or picture; 73 ledger or picture cannot be written; 74 ledger
  or trace cannot be read
"""
FORGIVE_EXAMPLES = """\b
Examples:
  ftslurm nodes forgive n3 --reason "DIMM replaced"
  ftslurm nodes forgive 'n[3-5]'
"""
ledger_option = click.option(
    "--ledger", type=click.Path(path_type=Path), help="The ledger's folder; left out: FTSLURM_LEDGER, or your own."
)


@click.group(epilog=EXAMPLES, invoke_without_command=True)
@click.option("-p", "--partition", help="Judge among the nodes of this partition; left out: the default one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@ledger_option
@click.option("--analyze", is_flag=True, help="How faults come, from ledger, runs' journals and Slurm's accounting.")
@click.option("--days", type=click.FloatRange(min=1), default=365.0, show_default=True, help="How far back to analyze.")
@click.option("--trace", type=click.Path(path_type=Path), help="Analyze a fault trace (JSON or CSV) instead.")
@click.option(
    "--fleet", "size", type=click.IntRange(min=1), help="How many nodes the trace watched, if not all failed."
)
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw it: FILE.png or FILE.svg.")
@click.pass_context
def nodes(
    ctx: click.Context,
    *,
    partition: str | None,
    ledger: Path | None,
    days: float,
    trace: Path | None,
    size: int | None,
    picture: Path | None,
    as_json: bool,
    analyze: bool,
) -> None:
    """Show the nodes that runs have given up, and which of them are excluded from new ones."""
    if ctx.invoked_subcommand is not None:
        return
    if analyze:
        from ftslurm.cli import analysis

        if trace:
            past = analysis.past_of_trace(trace, size)
        else:
            past = analysis.past_of_the_user(_folder(ledger), _fleet(partition), days, quiet=as_json)
        analysis.show(past, picture, as_json=as_json)
        return
    if trace or size or picture:
        raise click.UsageError("--trace, --fleet and --picture belong to --analyze")
    from ftslurm.exclusion import standing

    folder = _folder(ledger)
    fleet = _fleet(partition)
    records = standing(folder, fleet)
    if as_json:
        head = {"meta": {"schema": 1}, "ledger": str(folder), "fleet": len(fleet)}
        click.echo(json.dumps({**head, "nodes": [_plain(each) for each in records]}, indent=2))
    elif not records:
        click.echo(f"no node has a mark in {folder}", err=True)
    else:
        click.echo("\n".join(_table(records)))


@nodes.command(epilog=FORGIVE_EXAMPLES)
@click.argument("nodelist")
@click.option("--reason", default="", help="Why: what was repaired.")
@ledger_option
def forgive(nodelist: str, reason: str, ledger: Path | None) -> None:
    """Let the marks of NODELIST up to now count no more, because the nodes were repaired. Nothing is deleted."""
    from ftslurm import ledger as book
    from ftslurm.errors import UsageError
    from ftslurm.exclusion import names

    folder, chosen = _folder(ledger), names(nodelist)
    known = {each.node for each in book.read(folder).marks}
    unknown = [node for node in chosen if node not in known]
    if unknown:
        raise UsageError(f"no mark of {', '.join(unknown)} is in {folder}", hint="`ftslurm nodes` lists the marks")
    for node in chosen:
        book.forgive(folder, node, reason, getpass.getuser())
        click.echo(f"{node}: its marks up to now count no more")


def _folder(given: Path | None) -> Path:
    from ftslurm.paths import default_run_root, ledger_of

    return given.absolute() if given is not None else ledger_of(default_run_root())


def _fleet(partition: str | None) -> tuple[str, ...]:
    """The nodes to judge among; without Slurm's word only those that the ledger knows."""
    from ftslurm.errors import FtslurmError
    from ftslurm.exclusion import fleet_of
    from ftslurm.slurm.client import SlurmClient

    try:
        return fleet_of(SlurmClient(), partition)
    except FtslurmError as error:
        click.echo(f"ftslurm: Slurm does not say how many nodes there are, the ledger's own count: {error}", err=True)
        return ()


def _plain(record: Record) -> dict[str, object]:
    last = record.last
    return {
        "node": record.node,
        "standing": record.standing.value,
        "reason": record.reason,
        "marks": record.marks,
        "score": record.score,
        "last": {"t": last.at, "cause": last.cause, "evidence": last.evidence.value, "run": last.run, "job": last.job,
                 "reason": last.reason},
    }  # fmt: skip


def _table(records: tuple[Record, ...]) -> list[str]:
    from ftslurm.insight.text import aligned, clock, visible

    now = time.time()
    cells = [("NODE", "STANDING", "MARKS", "LAST", "CAUSE", "REASON")]
    for each in records:
        age = clock(max(now - each.last.at, 0.0))
        cells.append(
            (each.node, each.standing.value, str(each.marks), age, visible(each.last.cause), visible(each.reason))
        )
    return aligned(cells)
