"""`ftslurm explain`: the story of a run, told from its journal."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from ftslurm.cli.progress import waiting
from ftslurm.cli.runarg import run_argument

if TYPE_CHECKING:
    from ftslurm.insight.records import Story
    from ftslurm.paths import RunPaths

EXAMPLES = """\b
Examples:
  ftslurm explain 101                                 # also while it is running
  ftslurm explain 101 -v                              # with every journal entry, one line each
  ftslurm explain 101 --json | jq '.story.incidents[].stages_s'
\b
How to read it:
  INCIDENT  from the first sign of a failure (a node's last beat, a rank's end) to the release of the next ranks
  verdict   what was concluded; witnesses are those who were asked about the node, with their words
  evidence  the facts, who said them and when: + counted, ~ follows from the cause, - spoke for another one
  otherwise what would have led to another verdict, found by asking the same rules again with that one thing changed
  plan      what was done; below it the other plans, and why each of them was not taken
  took      its parts: detect (silence), decide, stop (nothing of the old attempt is left), launch, restore
\b
Exit codes:
  0 told; 2 no such run; 65 the journal is damaged; 74 it cannot be read
"""
FRESH_S = 90.0
"""A supervisor renews its lease every 30 s: a younger one is alive, and its story goes on until now."""


@click.command(epilog=EXAMPLES)
@run_argument()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("-v", "--verbose", is_flag=True, help="Also every journal entry, one line each.")
def explain(run: str, *, as_json: bool, verbose: bool) -> None:
    """Tell what happened to a run: when, why it was decided so, what would have changed it, and what it cost."""
    from ftslurm import journal, runs
    from ftslurm.insight.export import SCHEMA, of_story
    from ftslurm.insight.lines import lines
    from ftslurm.insight.render import render
    from ftslurm.insight.story import story
    from ftslurm.insight.text import terminal_width

    paths = runs.find_run(run)
    with waiting("reading the journal", quiet=as_json):
        entries = list(journal.read(paths))
        told = story(entries, now=_now(paths))
    if as_json:
        document = {
            "meta": {"schema": SCHEMA},
            "run": {"run_id": paths.run_id, "run_dir": str(paths.root)},
            "notes": list(_notes(paths, told)),
            "story": of_story(told),
            **({"entries": [json.loads(entry.line()) for entry in entries]} if verbose else {}),
        }
        click.echo(json.dumps(document, indent=2))
        return
    if verbose:
        for line in lines(entries):
            click.echo(line)
        click.echo()
    click.echo(render(told, title=f"run {paths.run_id}", width=terminal_width()), nl=False)
    for note in _notes(paths, told):
        click.echo(f"note: {note}", err=True)
    advice = _advice(told, paths)
    if advice:
        click.echo(f"hint: {advice}", err=True)


def _notes(paths: RunPaths, told: Story) -> tuple[str, ...]:
    """What holds for the whole run: whether refused checkpoints can be loaded nevertheless; what a lost node means."""
    from ftslurm.config import from_resolved
    from ftslurm.errors import ConfigError
    from ftslurm.runtime.settings import handover_notes, smaller_worlds

    try:
        config = from_resolved(json.loads(paths.resolved.read_bytes()))
    except (OSError, ValueError, ConfigError):
        return ()
    return (*handover_notes(config), *(() if told.over else smaller_worlds(config)))


def _now(paths: RunPaths) -> float | None:
    """The present, for a run that somebody holds; else its story ends with its last entry."""
    from ftslurm import journal

    holder = journal.holder(paths)
    return time.time() if holder is not None and time.time() - holder.t < FRESH_S else None


def _advice(told: Story, paths: RunPaths) -> str:
    """What could be done next."""
    from ftslurm.core.events import Phase
    from ftslurm.insight.text import took

    name = told.jobs[-1] if told.jobs else paths.run_id
    if told.phase in (Phase.FAILED, Phase.CANCELLED, Phase.STOPPED):
        return f"`ftslurm logs {name}` shows what rank 0 printed; `ftslurm resume {name}` continues the run"
    if told.until is None:
        return f"`ftslurm status {name}` says what Slurm knows of its job"
    if not told.over and _now(paths) is None:
        quiet = took(time.time() - told.until)
        return f"nobody holds this run now, and its last entry is {quiet} old: `ftslurm status {name}` asks Slurm"
    return ""
