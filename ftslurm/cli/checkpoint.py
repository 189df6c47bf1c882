"""`ftslurm checkpoint`: which checkpoints a run has, and whether every byte of them is right."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click

from ftslurm.cli.checkpoint_export import export
from ftslurm.cli.checkpoint_log import diff, log
from ftslurm.cli.checkpoint_names import rollback, tag, untag
from ftslurm.cli.checkpoint_now import now
from ftslurm.cli.checkpoint_prune import prune
from ftslurm.cli.progress import Waiting, waiting
from ftslurm.cli.storearg import json_option, print_json, short_age, store_argument, store_of, table
from ftslurm.quantities import short_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ftslurm.checkpoint.inventory import Row

LS_EXAMPLES = """\b
Examples:
  ftslurm checkpoint ls 4711                          # a job id, a run id, or the run's folder
  ftslurm checkpoint ls 4711 --json | jq '.checkpoints[] | select(.state == "DURABLE").generation'
"""
VERIFY_EXAMPLES = """\b
Examples:
  ftslurm checkpoint verify 4711                      # reads every byte of every durable checkpoint
  ftslurm checkpoint verify 4711 --step 5000
  ftslurm checkpoint verify 4711 --json | jq .ok
"""
GROUP_EXAMPLES = """\b
Examples:
  ftslurm checkpoint ls 4711                          # what there is, in every state
  ftslurm checkpoint log 4711                         # what the training was at, newest first
  ftslurm checkpoint verify 4711
  ftslurm checkpoint tag 4711 before-lr-change --of 5000
  ftslurm checkpoint rollback 4711 before-lr-change
  ftslurm checkpoint export 4711 best --safetensors model.safetensors
"""


@click.group(epilog=GROUP_EXAMPLES)
def checkpoint() -> None:
    """List, verify, tag and prune the checkpoints of a run.

    RUN_OR_JOB is a run id, a job id, or a folder: the run's, or that of a store.
    """


for verb in (log, diff, tag, untag, rollback, prune, export, now):
    checkpoint.add_command(verb)


@checkpoint.command(epilog=LS_EXAMPLES)
@store_argument
@json_option
def ls(run_or_job: str, *, as_json: bool) -> None:
    """List the checkpoints of RUN_OR_JOB, oldest first. Looks at records and sizes; `verify` reads the bytes.

    LOCAL: on the nodes only. DURABLE: on shared storage, whole. UNFINISHED: never committed. DAMAGED: refused, not yet
    set aside. QUARANTINED: refused and set aside. ABANDONED: durable, newer than what the run was rolled back to.
    """
    from ftslurm.checkpoint.inventory import inventory

    root = store_of(run_or_job).root
    with waiting("reading the records of checkpoints", quiet=as_json):
        rows = inventory(root)
    if as_json:
        print_json({"store": str(root), "checkpoints": [_as_json(row) for row in rows]})
    elif not rows:
        click.echo(f"no checkpoints in {root}", err=True)
    else:
        click.echo("\n".join(rows_of(rows, time.time())))


@checkpoint.command(epilog=VERIFY_EXAMPLES)
@store_argument
@click.option("--step", type=click.IntRange(min=0), help="Only the checkpoints of this step.")
@json_option
def verify(run_or_job: str, *, step: int | None, as_json: bool) -> int:
    """Read every byte of the durable checkpoints of RUN_OR_JOB. Exit code 65 when one is damaged.

    Exit code 74 when one cannot be read.
    """
    from ftslurm.errors import DataDamaged, StorageError, UsageError

    root = store_of(run_or_job).root
    with waiting("reading checkpoints", quiet=as_json, unit=short_size) as wait:
        verdicts = _verify_all(root, step, wait, None if as_json else _say)
    if not verdicts and step is not None:
        raise UsageError(f"there is no durable checkpoint of step {step} in {root}")
    states = {verdict["state"] for verdict in verdicts}
    if as_json:
        print_json({"store": str(root), "ok": states <= {Found.OK}, "checkpoints": verdicts})
    elif not verdicts:
        click.echo(f"no durable checkpoints in {root}", err=True)
    if Found.DAMAGED in states:
        return DataDamaged.exit_code
    return StorageError.exit_code if Found.UNREADABLE in states else 0


# ------------------------------------------------------------------------------------------------------------------ ls


def rows_of(rows: tuple[Row, ...], now: float) -> list[str]:
    """The lines of the table, with a heading; reasons stand at the end."""
    heading = ("GENERATION", "STEP", "STATE", "SIZE", "FILES", "AGE", "NODES", "REASON")
    return table(heading, [_cells(row, now) for row in rows], {1, 3, 4, 5})


def _cells(row: Row, now: float) -> tuple[str, ...]:
    from ftslurm.slurm import nodeset

    return (
        row.generation,
        str(row.step),
        str(row.standing),
        "-" if row.size_bytes is None else short_size(row.size_bytes),
        "-" if row.files is None else str(row.files),
        "-" if row.at is None else short_age(now - row.at),
        nodeset.fold(row.nodes) if row.nodes else "-",
        row.reason,
    )


def _as_json(row: Row) -> dict[str, Any]:
    return {
        "generation": row.generation,
        "step": row.step,
        "attempt": row.attempt,
        "state": str(row.standing),
        "size_bytes": row.size_bytes,
        "files": row.files,
        "nodes": list(row.nodes),
        "world_size": row.world_size,
        "committed_at": row.at,
        "reason": row.reason,
    }


# -------------------------------------------------------------------------------------------------------------- verify


class Found(StrEnum):
    """What reading a checkpoint has shown."""

    OK = "OK"
    DAMAGED = "DAMAGED"
    UNREADABLE = "UNREADABLE"


def _verify_all(
    root: Path, step: int | None, wait: Waiting, tell: Callable[[dict[str, Any]], None] | None
) -> list[dict[str, Any]]:
    """The verdict on every generation that claims to be durable, each told as soon as it is known."""
    from ftslurm.checkpoint.store import scan
    from ftslurm.checkpoint.versions import versions
    from ftslurm.core.manifest import parse_generation

    found = scan(root)
    refused = {each.generation: each for each in found.refused if not (each.is_unfinished or each.gone)}
    sizes = {each.generation: each.commit.size_bytes for each in found.generations}
    sizes |= {each.generation: each.commit.size_bytes for each in versions(root) if not each.live}
    verdicts: list[dict[str, Any]] = []
    for name in sorted([*refused, *sizes], key=parse_generation):
        if step is not None and parse_generation(name)[0] != step:
            continue
        if name in refused:
            state = Found.DAMAGED if refused[name].damaged else Found.UNREADABLE
            verdict = _as_verdict(name, None, state, [{"file": "", "chunk": None, "what": refused[name].reason}])
        else:
            wait.say(name)
            verdict = _read(root, name, sizes[name], wait)
        if tell is not None:
            with wait.aside():
                tell(verdict)
        verdicts.append(verdict)
    return verdicts


def _read(root: Path, name: str, size_bytes: int, wait: Waiting) -> dict[str, Any]:
    from ftslurm.checkpoint.examine import check_whole, has_indexes
    from ftslurm.checkpoint.pacing import Pacer
    from ftslurm.checkpoint.store import verify as read_all
    from ftslurm.errors import DataDamaged, StorageError

    try:
        found = read_all(root, name, Pacer(progress=wait, total=size_bytes))
        if found.ok and has_indexes(root, name):
            check_whole(root, name)
    except (DataDamaged, StorageError) as error:
        state = Found.DAMAGED if isinstance(error, DataDamaged) else Found.UNREADABLE
        return _as_verdict(name, size_bytes, state, [{"file": "", "chunk": None, "what": str(error)}])
    problems = [{"file": each.name, "chunk": each.chunk, "what": str(each)} for each in found.problems]
    return _as_verdict(name, size_bytes, Found.OK if found.ok else Found.DAMAGED, problems)


def _as_verdict(name: str, size_bytes: int | None, state: Found, problems: list[dict[str, Any]]) -> dict[str, Any]:
    return {"generation": name, "state": str(state), "size_bytes": size_bytes, "problems": problems}


def _say(verdict: dict[str, Any]) -> None:
    size = "" if verdict["size_bytes"] is None else f"  {short_size(verdict['size_bytes'])}"
    click.echo(f"{verdict['generation']}  {verdict['state']}{size}")
    for problem in verdict["problems"]:
        click.echo(f"  {problem['what']}")
