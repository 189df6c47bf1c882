"""`ftslurm checkpoint log` and `diff`: what the training was at, and what has changed between two saves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ftslurm.cli.progress import waiting
from ftslurm.cli.storearg import json_option, print_json, said, store_argument, store_of, table
from ftslurm.quantities import short_size

if TYPE_CHECKING:
    from ftslurm.checkpoint.difference import Change, Difference
    from ftslurm.checkpoint.versions import Version

LOG_EXAMPLES = """\b
Examples:
  ftslurm checkpoint log 4711                         # newest first
  ftslurm checkpoint log 4711 -n 5
  ftslurm checkpoint log 4711 --json | jq '.checkpoints[] | select(.metrics.loss < 2).generation'
"""
DIFF_EXAMPLES = """\b
Examples:
  ftslurm checkpoint diff 4711 5000 6000              # steps, tags, latest, best or generations
  ftslurm checkpoint diff 4711 best latest --json | jq .metrics
"""


@click.command(epilog=LOG_EXAMPLES)
@store_argument
@click.option("-n", "--lines", type=click.IntRange(min=1), help="Only the newest so many.")
@json_option
def log(run_or_job: str, *, lines: int | None, as_json: bool) -> None:
    """Show the history of the durable checkpoints of RUN_OR_JOB, newest first: position, metrics, reason, tags.

    A ~ before the generation says that it lies on an abandoned branch.
    """
    from ftslurm.checkpoint.versions import versions

    root = store_of(run_or_job).root
    with waiting("reading the records of checkpoints", quiet=as_json):
        found = versions(root)[::-1][:lines]
    if as_json:
        print_json({"store": str(root), "checkpoints": [_as_json(each) for each in found]})
    elif not found:
        click.echo(f"no durable checkpoints in {root}", err=True)
    else:
        heading = ("GENERATION", "STEP", "EPOCH", "KIND", "SIZE", "METRICS", "TAGS", "PARENT", "REASON")
        click.echo("\n".join(table(heading, [_cells(each) for each in found], {1, 2, 4})))


def _cells(version: Version) -> tuple[str, ...]:
    commit, about = version.commit, version.commit.about
    metrics = [] if about is None else [f"{said(name)}={value:g}" for name, value in sorted(about.metrics.items())]
    return (
        version.generation if version.live else f"~{version.generation}",
        str(commit.step),
        "-" if about is None or about.epoch is None else f"{about.epoch:g}",
        "-" if about is None else str(about.kind),
        short_size(commit.size_bytes),
        ",".join(metrics) or "-",
        ",".join(version.tags) or "-",
        "-" if about is None or not about.parent else about.parent,
        "-" if about is None or not about.reason else said(about.reason),
    )


def _as_json(version: Version) -> dict[str, Any]:
    commit, about = version.commit, version.commit.about
    return {
        "generation": version.generation,
        "digest": version.digest,
        "step": commit.step,
        "attempt": commit.attempt,
        "live": version.live,
        "tags": list(version.tags),
        "run_id": commit.run_id,
        "world_size": commit.world_size,
        "size_bytes": commit.size_bytes,
        "committed_at": commit.at,
        "epoch": None if about is None else about.epoch,
        "samples": None if about is None else about.samples,
        "kind": None if about is None else str(about.kind),
        "base": None if about is None else about.base,
        "parent": None if about is None else about.parent,
        "metrics": {} if about is None else {**about.metrics, **about.odd},
        "reason": "" if about is None else about.reason,
    }


@click.command(epilog=DIFF_EXAMPLES)
@store_argument
@click.argument("before")
@click.argument("after")
@json_option
def diff(run_or_job: str, before: str, after: str, *, as_json: bool) -> None:
    """Show what differs from BEFORE to AFTER: tensors (or files), values, metrics and sizes. The exit code is 0."""
    from ftslurm.checkpoint.difference import compare
    from ftslurm.checkpoint.versions import find

    root = store_of(run_or_job).root
    with waiting("comparing checkpoints", quiet=as_json) as shown:
        old, new = find(root, before), find(root, after)
        found = compare(root, old, new, shown)
    if as_json:
        changes = [asdict(each) for each in found.changes]
        metrics = {name: {"before": values[0], "after": values[1]} for name, values in found.metrics.items()}
        sides = {"before": _as_json(old), "after": _as_json(new)}
        print_json({"store": str(root), **sides, "same": found.same, "changes": changes, "metrics": metrics})
    else:
        click.echo("\n".join(_lines(old, new, found)))


def _lines(old: Version, new: Version, found: Difference) -> list[str]:
    sizes = f"{short_size(old.commit.size_bytes)} -> {short_size(new.commit.size_bytes)}"
    lines = [f"{old.generation} -> {new.generation}: {len(found.changes)} differ, {found.same} are the same; {sizes}"]
    for name, (before, after) in found.metrics.items():
        told = " -> ".join("-" if value is None else f"{value:g}" for value in (before, after))
        lines.append(f"  {said(name)}: {told}")
    return lines + [f"  {_words(change)}" for change in found.changes]


def _words(change: Change) -> str:
    match change.what:
        case "added":
            return f"+ {said(change.name)}  {change.after}"
        case "removed":
            return f"- {said(change.name)}  {change.before}"
        case "form":
            return f"! {said(change.name)}  {change.before} -> {change.after}"
        case _:
            return f"~ {said(change.name)}  {change.after}"
