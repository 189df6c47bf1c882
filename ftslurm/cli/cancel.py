"""`ftslurm cancel`: end the job of a run; its supervisor sees that, stops the ranks and marks the run as cancelled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ftslurm.cli.progress import waiting
from ftslurm.cli.runarg import run_argument

if TYPE_CHECKING:
    from ftslurm.paths import RunPaths
    from ftslurm.slurm.client import SlurmClient
    from ftslurm.slurm.records import JobInfo

EXAMPLES = """\b
Examples:
  ftslurm cancel 101
  ftslurm cancel gpt-small-20260301-1a2b3c 117        # several; a pending job is cancelled too
  ftslurm cancel 101 --json | jq '.runs[] | {run_id, outcome}'
\b
What is saved stays: `ftslurm resume` continues a cancelled run.
\b
Exit codes:
  0 every run named is being cancelled or was not alive; 2 no such run (nothing is cancelled then);
  69 Slurm does not answer; 77 Slurm refuses (the job is somebody else's)
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one run: `cancelled`, `not_alive` or `failed`."""

    paths: RunPaths
    outcome: str
    job_ids: tuple[str, ...]
    words: str
    code: int = 0


@click.command(epilog=EXAMPLES)
@run_argument("names", "RUN_OR_JOB...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def cancel(names: tuple[str, ...], *, as_json: bool) -> int:
    """Cancel the jobs of runs, running or pending."""
    from ftslurm import runs
    from ftslurm.insight import index
    from ftslurm.insight.text import visible
    from ftslurm.slurm.client import SlurmClient

    named = list({paths.root.resolve(): paths for paths in map(runs.find_run, names)}.values())
    linked = index.jobs_by_run(*{paths.root.parent for paths in named})
    jobs_of = {paths.root: linked.get(paths.root.resolve(), ()) for paths in named}
    client = SlurmClient()
    results: list[Result] = []
    with waiting("cancelling", quiet=as_json) as wait:
        known = client.jobs(job for jobs in jobs_of.values() for job in jobs)
        for paths in named:
            results.append(_cancel(client, paths, jobs_of[paths.root], known))
            wait(len(results), len(named))
    if as_json:
        click.echo(json.dumps({"meta": {"schema": 1}, "runs": [_plain(each) for each in results]}, indent=2))
    else:
        for each in results:
            click.echo(f"run {each.paths.run_id}: {visible(each.words)}", err=each.outcome != "cancelled")
    return next((each.code for each in results if each.code), 0)


def _cancel(client: SlurmClient, paths: RunPaths, linked: Sequence[str], known: dict[str, JobInfo]) -> Result:
    """Cancel every live job of one run, the waiting ones of a chain included."""
    from ftslurm.errors import FtslurmError
    from ftslurm.slurm.records import JobState

    # An array task is known by two ids.
    live = {known[job].job_id: known[job] for job in linked if job in known and not known[job].state.is_over}
    ending = [job for job in live if live[job].state is JobState.COMPLETING]
    targets = [job for job in live if job not in ending]
    if not targets:
        return Result(paths=paths, outcome="not_alive", job_ids=(), words=_why_not(paths, linked, known, ending))
    try:
        # The last first: the end of one must not start the next of a chain.
        for job in reversed(targets):
            client.cancel(job)
    except FtslurmError as error:
        return Result(paths=paths, outcome="failed", job_ids=tuple(targets), words=str(error), code=error.exit_code)
    words = ", ".join(f"job {job} ({live[job].state})" for job in targets)
    return Result(paths=paths, outcome="cancelled", job_ids=tuple(targets), words=f"cancelled {words}")


def _why_not(paths: RunPaths, linked: Sequence[str], known: dict[str, JobInfo], ending: Sequence[str]) -> str:
    """Why there is nothing to cancel."""
    from ftslurm.errors import FtslurmError
    from ftslurm.insight.summary import last_entry

    if ending:
        return f"nothing to cancel: job {ending[-1]} is ending already"
    try:
        last = last_entry(paths)
    except FtslurmError as error:
        phase = f"unknown ({error})"
    else:
        phase = last.phase if last is not None else "submitted"
    if not linked:
        return f"nothing to cancel: no job of it is known; its phase is {phase}"
    job = known.get(linked[-1])
    word = f"is {job.state}" if job is not None else "is not known to slurmctld"
    return f"nothing to cancel: job {linked[-1]} {word}; the run's phase is {phase}"


def _plain(result: Result) -> dict[str, object]:
    return {
        "run_id": result.paths.run_id,
        "outcome": result.outcome,
        "job_ids": list(result.job_ids),
        "message": result.words,
    }
