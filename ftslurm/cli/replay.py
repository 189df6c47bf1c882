"""`ftslurm replay`: the decisions of a recorded run, taken again by its own policy and by another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.progress import waiting
from ftslurm.cli.runarg import run_argument
from ftslurm.cli.storearg import duration_of

if TYPE_CHECKING:
    from ftslurm.plan.comparison import Comparison

EXAMPLES = """\b
Examples:
  ftslurm replay 101                                  # does this release decide as it was decided then?
  ftslurm replay 101 --policy other.yaml              # what would this policy have decided, and lost?
  ftslurm replay 101 --policy other.yaml --queue-wait 20m
  ftslurm replay 101 --policy other.yaml --json | jq '.projection'
\b
The policy is a whole configuration, or only what is to be different:
  recovery: {min_nodes: 4, spares: 1}
  checkpoint: {durable_every: 10m}
\b
How to read it:
  decisions   each plan of the run, and the other policy's in the same situation; prices are in node-seconds, both by
              what the run's own policy assumes
  otherwise   what else would have been done differently, or at another time
  projection  the recorded failures, played through a small model under both policies, beside what was measured;
              the first two columns show the error of the model
\b
Exit codes:
  0 told; 2 no such run, or a policy with mistakes; 65 the journal is damaged, or of a release with other moves; 74 it
  cannot be read
"""


@click.command(epilog=EXAMPLES)
@run_argument()
@click.option(
    "--policy", type=click.Path(path_type=Path), help="Another policy: a configuration, or sections of one, as YAML."
)
@click.option(
    "--queue-wait",
    "queue_s",
    metavar="DURATION",
    callback=duration_of,
    help="How long a requeued job waits in the projection; left out: as recorded.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def replay(run: str, policy: Path | None, queue_s: float | None, *, as_json: bool) -> None:
    """Take the decisions of a recorded run again, with its own policy and with another one."""
    from ftslurm import runs
    from ftslurm.insight.text import terminal_width
    from ftslurm.plan.comparison import compare
    from ftslurm.plan.replayjson import document
    from ftslurm.plan.replaytext import render

    paths = runs.find_run(run)
    with waiting("replaying the journal", quiet=as_json):
        found = compare(paths, policy, queue_s)
    if as_json:
        click.echo(json.dumps(document(found), indent=2))
        return
    click.echo(render(found, terminal_width()), nl=False)
    for note in _notes(found):
        click.echo(f"note: {note}", err=True)


def _notes(found: Comparison) -> list[str]:
    """What the reader must know before believing any of it."""
    mismatch = found.replayed.mismatch
    if mismatch is None:
        return []
    what = f"entry {mismatch.number} ({mismatch.event}) and {found.replayed.mismatches - 1} others"
    why = "the journal comes from a release with other rules, or the run's configuration is not what it was"
    return [f"{what} were decided otherwise when they were recorded: {why}"]
