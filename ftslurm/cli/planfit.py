"""`ftslurm plan fit`: which model of failures reproduces a trace."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ftslurm.cli.progress import waiting

EXAMPLES = """\b
Examples:
  ftslurm plan fit faults.json --nodes 400             # the fleet has 400 nodes; those without a fault are in no trace
  ftslurm plan fit faults.csv --nodes 64 --days 90
  ftslurm plan fit faults.json --nodes 400 --judge-on later    # fitted to the first half, judged on the second
  ftslurm plan fit faults.json --nodes 400 --json | jq .models.clustered.parameters
\b
A trace is one of these:
  JSON  a list of {node_id, event_time (days), event_type (fault_start, fault_end), fault_type {Level, Class, Desc}}
  CSV   node,start,end,kind; seconds since the trace's beginning, in order; an empty end: not over
\b
Exit codes:
  0 told; 2 the trace is refused, with file, line and reason; 74 it cannot be read
"""


@click.command(epilog=EXAMPLES)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--nodes", type=click.IntRange(1, 1_000_000), help="Of the fleet; left out: those that the trace names.")
@click.option("--days", type=click.FloatRange(0, 36_500, min_open=True), help="Length; left out: until the last event.")
@click.option(
    "--judge-on", type=click.Choice(["whole", "later", "others"]), default="whole", show_default=True,
    help="Judge on the trace itself, or hold back its later half, or half of its nodes.",
)  # fmt: skip
@click.option("--replications", type=click.IntRange(2, 10_000), default=100, show_default=True, help="Of each model.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same answer.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def fit(
    trace: Path, *, nodes: int | None, days: float | None, judge_on: str, replications: int, seed: int, as_json: bool
) -> None:
    """Fit models of failures to a TRACE, and say how well each reproduces it."""
    from ftslurm.core.lemons import DAY_S
    from ftslurm.plan.fitted import JudgedOn, document, study, text
    from ftslurm.plan.trace import read_trace

    read = read_trace(trace, nodes, None if days is None else days * DAY_S)
    if nodes is None:
        click.echo(
            f"note: taken as a fleet of {read.nodes} nodes, those that the trace names. If others never failed, rates "
            "are lower and faults more concentrated: --nodes says how many there were",
            err=True,
        )
    with waiting("fitting and replicating", quiet=as_json):
        found = study(read, JudgedOn(judge_on), seed, replications)
    if as_json:
        click.echo(json.dumps({"meta": {"schema": 1}, **document(found)}, indent=2, allow_nan=False))
    else:
        click.echo("\n".join(text(found)))
