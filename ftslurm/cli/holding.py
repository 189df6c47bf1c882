"""Whether a run is alive: what changes it from outside must not meet its supervisor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftslurm.insight.summary import Summary
    from ftslurm.paths import RunPaths
    from ftslurm.slurm.client import SlurmClient
    from ftslurm.slurm.records import JobInfo


def refuse_if_held(paths: RunPaths, client: SlurmClient, summary: Summary, *, force: bool) -> None:
    """Raise TryAgain, with who holds it, unless the run is known to be free; `force` where nobody knows."""
    from ftslurm import journal
    from ftslurm.errors import TryAgain
    from ftslurm.insight import hold, index

    linked = list(index.jobs_by_run(paths.root.parent).get(paths.root.resolve(), ()))
    linked += [job for job in (summary.job_id, *client.find_submitted(paths.run_id)) if job and job not in linked]
    lease, now = journal.holder(paths), time.time()
    found = hold.who_holds(summary, linked, _slurm_says(client, linked, summary), lease, now)
    words = f"job {found.job_id}: {found.reason}; {hold.lease_words(lease, now)}"
    if found.hold is hold.Hold.HELD:
        raise TryAgain(
            f"run {paths.run_id} is held by {words}",
            hint=f"`ftslurm cancel {found.job_id}` ends it; `ftslurm status {found.job_id}` shows it",
        )
    if found.hold is hold.Hold.UNCERTAIN and not force:
        raise TryAgain(
            f"nobody can say whether run {paths.run_id} is still alive in {words}",
            hint="look on its nodes; if you are sure that nothing of that job is left, repeat with --force",
        )


def _slurm_says(client: SlurmClient, linked: list[str], summary: Summary) -> dict[str, JobInfo]:
    """Slurm's word on the jobs; accounting's too on the one that counts, where slurmctld has forgotten it."""
    jobs = client.jobs(linked)
    last = summary.job_id or (linked[-1] if linked else "")
    if last and not summary.over and (last not in jobs or jobs[last].state.is_over):
        jobs[last] = client.job(last)
    return jobs
