"""`ftslurm checkpoint`: which checkpoints a run has, and whether every byte of them is right."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftslurm.checkpoint.inventory import Row

PROGRESS_AFTER_S = 1.0
PROGRESS_EVERY_S = 0.2
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
  ftslurm checkpoint ls 4711
  ftslurm checkpoint verify 4711
"""

run_argument = click.argument("run_or_job")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group(epilog=GROUP_EXAMPLES)
def checkpoint() -> None:
    """List and verify the checkpoints of a run."""


@checkpoint.command(epilog=LS_EXAMPLES)
@run_argument
@json_option
def ls(run_or_job: str, *, as_json: bool) -> None:
    """List the checkpoints of RUN_OR_JOB, oldest first. Looks at records and sizes; `verify` reads the bytes.

    LOCAL: on the nodes only. DURABLE: on shared storage, whole. UNFINISHED: never committed. DAMAGED: refused, not yet
    set aside. QUARANTINED: refused and set aside.
    """
    from ftslurm.checkpoint.inventory import inventory

    root = store_of(run_or_job)
    rows = inventory(root)
    if as_json:
        _print_json({"store": str(root), "checkpoints": [_as_json(row) for row in rows]})
    elif not rows:
        click.echo(f"no checkpoints in {root}", err=True)
    else:
        click.echo("\n".join(table(rows, time.time())))


@checkpoint.command(epilog=VERIFY_EXAMPLES)
@run_argument
@click.option("--step", type=click.IntRange(min=0), help="Only the checkpoints of this step.")
@json_option
def verify(run_or_job: str, *, step: int | None, as_json: bool) -> int:
    """Read every byte of the durable checkpoints of RUN_OR_JOB. Exit code 65 when one is damaged."""
    from ftslurm.errors import DataDamaged, UsageError

    root = store_of(run_or_job)
    verdicts = [verdict for verdict in _verdicts(root, step, as_json=as_json)]
    if not verdicts and step is not None:
        raise UsageError(f"there is no durable checkpoint of step {step} in {root}")
    ok = all(verdict["ok"] for verdict in verdicts)
    if as_json:
        _print_json({"store": str(root), "ok": ok, "checkpoints": verdicts})
    elif not verdicts:
        click.echo(f"no durable checkpoints in {root}", err=True)
    return 0 if ok else DataDamaged.exit_code


def store_of(run_or_job: str) -> Path:
    """The checkpoint store of a run, or the store's own folder. Raises UsageError where there is none."""
    from ftslurm.checkpoint.layout import StorePaths
    from ftslurm.runs import find_run
    from ftslurm.runtime.spec import store_root

    given = Path(run_or_job)
    if "/" in run_or_job and StorePaths(given).run_file.is_file():
        return given
    return store_root(find_run(run_or_job))
