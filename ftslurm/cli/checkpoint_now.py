"""`ftslurm checkpoint now`: have a run that is alive save, and wait until the checkpoint is on shared storage."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ftslurm.cli.progress import Waiting, waiting
from ftslurm.cli.storearg import json_option, print_json, store_argument, store_of

if TYPE_CHECKING:
    from pathlib import Path

TAKEN_S = 20.0
POLL_S = 0.5
NOW_EXAMPLES = """\b
Examples:
  ftslurm checkpoint now 4711                         # ask, and wait until it is on shared storage
  ftslurm checkpoint now 4711 --timeout 60
  ftslurm checkpoint now 4711 --no-wait
"""


@click.command(epilog=NOW_EXAMPLES)
@store_argument
@click.option("--wait/--no-wait", default=True, help="Wait until the checkpoint is durable. The default.")
@click.option("--timeout", default=600.0, show_default=True, type=click.FloatRange(min=0), help="Seconds to wait.")
@json_option
def now(run_or_job: str, *, wait: bool, timeout: float, as_json: bool) -> int:
    """Ask the run of RUN_OR_JOB for a checkpoint now. Training goes on.

    With save_on: signal:NAME the program must go on after that signal: one that saves and leaves has ended the run.

    Exit code 2 when its program cannot be asked (checkpoint.save_on is none); 75 when no supervisor takes the request,
    or the checkpoint is not durable in time.
    """
    from ftslurm.cli.asking import refuse_without_way
    from ftslurm.errors import TryAgain, UsageError
    from ftslurm.runtime.requests import request_save

    store = store_of(run_or_job)
    if store.run is None:
        raise UsageError(f"{run_or_job} names a store, not a run", hint="give a job id or a run id")
    refuse_without_way(store.run, hint="set checkpoint.save_on: signal:TERM or file:PATH, as the program understands")
    before = _newest(store.root)
    path = request_save(store.run.requests)
    left = "not waited for any longer; the request stays"
    with waiting("waiting for the checkpoint", quiet=as_json, interrupted=left) as shown:
        found = _wait_for((store.root, path), before, timeout, shown) if wait else ""
    if wait and not found:
        raise TryAgain(
            f"no new checkpoint is durable after {timeout:.0f} s", hint=f"`ftslurm explain {run_or_job}` says more"
        )
    if as_json:
        print_json({"store": str(store.root), "generation": found or None})
    else:
        click.echo(found or "the run is asked for a checkpoint")
    return 0


def _newest(root: Path) -> tuple[int, int]:
    """The newest checkpoint that is whole, on shared storage or on the nodes."""
    from ftslurm.checkpoint.commit import local_records
    from ftslurm.checkpoint.store import scan

    whole = [(each.commit.step, each.commit.attempt) for each in scan(root).generations] if root.is_dir() else []
    return max([*whole, *((each.step, each.attempt) for each in local_records(root))], default=(-1, -1))


def _wait_for(place: tuple[Path, Path], before: tuple[int, int], timeout_s: float, shown: Waiting) -> str:
    """The first generation after `before` that becomes durable; "" for none in time. `place`: store and request."""
    from ftslurm.checkpoint.store import read_latest
    from ftslurm.core.manifest import parse_generation
    from ftslurm.errors import TryAgain

    root, request = place
    began = time.monotonic()
    while (passed := time.monotonic() - began) < timeout_s:
        latest = read_latest(root)
        if latest and parse_generation(latest) > before:
            return latest
        waits = request.exists()
        if waits and passed > TAKEN_S:
            request.unlink(missing_ok=True)
            raise TryAgain(f"no supervisor has taken the request within {TAKEN_S:.0f} s", hint="is the run alive?")
        shown.say("not seen by the run yet" if waits else "the program is asked; not durable yet")
        time.sleep(POLL_S)
    return ""
