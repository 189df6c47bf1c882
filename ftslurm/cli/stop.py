"""`ftslurm stop`: a run ends by its own decision, with a save if that is wanted; `ftslurm resume` continues it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from ftslurm.cli.progress import waiting
from ftslurm.cli.runarg import run_argument

if TYPE_CHECKING:
    from ftslurm.paths import RunPaths

TAKEN_S = 20.0
POLL_S = 0.2
EXAMPLES = """\b
Examples:
  ftslurm stop 101 --after-save                       # save, bring the save to shared storage, then end
  ftslurm stop 101                                    # end now; what is saved is brought to shared storage
  ftslurm stop 101 --after-save --json | jq -r .run_id
  ftslurm resume 101                                  # go on from there, in a new job
\b
A colleague without your account may do the same, where you let the group write:
  echo after-save > RUN_DIR/requests/STOP             # who did it is said in the story
\b
Exit codes:
  0 the run has heard it, or had ended before; 2 no such run, or its program cannot be asked to save;
  74 its folder cannot be written; 75 no supervisor has heard it: `ftslurm cancel` ends a job that waits
"""


@click.command(epilog=EXAMPLES)
@run_argument()
@click.option("--after-save", is_flag=True, help="Ask the program to save first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def stop(run: str, *, after_save: bool, as_json: bool) -> int:
    """End a run that is alive, so that it can be resumed; its job ends with exit code 79."""
    from ftslurm import runs
    from ftslurm.insight.text import visible

    paths = runs.find_run(run)
    left = f"not waited for any longer; the request stays: ftslurm status {run}"
    with waiting("waiting until the run has heard it", quiet=as_json, interrupted=left):
        phase = _end_of(paths) or _ask(paths, run, after_save=after_save)
    ended = bool(phase)
    words = "is asked to save and to stop" if after_save else "is asked to stop"
    words = f"has ended already: {phase}" if ended else words
    if as_json:
        told = {"run_id": paths.run_id, "outcome": "not_alive" if ended else "stopping", "after_save": after_save}
        click.echo(json.dumps({"meta": {"schema": 1}, **told}, indent=2))
    else:
        click.echo(f"run {paths.run_id} {visible(words)}", err=ended)
    return 0


def _end_of(paths: RunPaths) -> str:
    """The phase of a run that has ended; empty for one that has not."""
    from ftslurm.core.events import ENDED
    from ftslurm.insight.summary import last_entry, phase_of

    last = last_entry(paths)
    return last.phase if last is not None and phase_of(last) in ENDED else ""


def _ask(paths: RunPaths, named: str, *, after_save: bool) -> str:
    """Leave the request and wait until a supervisor has seen it; returns the phase of a run that has ended meanwhile.

    Raises:
        TryAgain: none has.
        StorageError: the run's folder cannot be written.
    """
    from ftslurm.cli.asking import refuse_without_way
    from ftslurm.errors import StorageError, TryAgain
    from ftslurm.runtime.stopfile import request_stop

    if after_save:
        refuse_without_way(paths, hint="without --after-save it ends with what is saved")
    try:
        path = request_stop(paths.stops, after_save=after_save)
    except OSError as error:
        raise StorageError(f"cannot write into {paths.requests}: {error.strerror}") from error
    deadline = time.monotonic() + TAKEN_S
    while path.exists():
        if time.monotonic() > deadline:
            path.unlink(missing_ok=True)
            if phase := _end_of(paths):
                return phase
            raise TryAgain(
                f"no supervisor has heard it within {TAKEN_S:.0f} s",
                hint=f"`ftslurm status {named}` says where the run stands; `ftslurm cancel {named}` ends its jobs",
            )
        time.sleep(POLL_S)
    return ""
