"""A chain: jobs that are submitted at once and wait for one another, for one run.

The later ones go on where the time of the one before was over; where the run has ended they return its exit code at
once, and those that still wait are cancelled. What marks them is the run's id in their comments, or the id of their
array.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.errors import FtslurmError
from ftslurm.slurm.client import JobField

if TYPE_CHECKING:
    from ftslurm.slurm.client import SlurmClient
    from ftslurm.slurm.env import JobEnv
    from ftslurm.slurm.records import LiveJob


def after(job_id: str) -> str:
    """The option of sbatch for a job that begins when another one is over, however that has ended."""
    return f"--dependency=afterany:{job_id}"


def follow(
    client: SlurmClient, script: Path, options: Sequence[str], first: str, count: int
) -> tuple[tuple[str, ...], str]:
    """Submit the jobs that come after the first; returns the ids of those that Slurm took, and why it took no more."""
    jobs = [first]
    try:
        while len(jobs) < count:
            jobs.append(client.submit(script, [*options, after(jobs[-1])]).partition(";")[0])
    except FtslurmError as error:
        return tuple(jobs[1:]), str(error)
    return tuple(jobs[1:]), ""


def further(client: SlurmClient, job: JobEnv) -> tuple[LiveJob, ...]:
    """The other jobs of this job's chain that will still run, the next one first.

    Raises:
        FtslurmError: Slurm does not answer.
    """
    return _of_chain(client.live_jobs(), job) if job.chain else ()


def _of_chain(live: Sequence[LiveJob], job: JobEnv) -> tuple[LiveJob, ...]:
    """A job that does not bear the mark itself has only inherited its name, and is in no chain."""
    chain = [each for each in live if job.chain in (each.array, *re.findall(r"[A-Za-z0-9._-]+", each.comment))]
    own = {job.job_id, job.requeue_id}
    if not own & {each.job_id for each in chain}:
        return ()
    return tuple(each for each in chain if each.job_id not in own)


def dissolve(client: SlurmClient, job: JobEnv) -> str:
    """Cancel what is left of the chain of a run that has ended; returns a sentence about it, empty where nothing is.

    One that another job waits for is made as small as a job can be instead, and returns the run's exit code in a
    moment; so does one that cannot be cancelled.
    """
    if not job.chain:
        return ""
    try:
        live = client.live_jobs()
        left = _of_chain(live, job)
        others = [each for each in live if each not in left]
        kept = [each for each in left if any(_waits_for(other, each) for other in others)]
        # The last first: the end of one must not start the next.
        for each in reversed(left):
            if each in kept:
                client.update_job(each.job_id, JobField.NUM_TASKS, 1)
                client.update_job(each.job_id, JobField.NUM_NODES, 1)
            else:
                client.cancel(each.job_id)
    except FtslurmError as error:
        return f"jobs of the chain that are left end as soon as they start, as the run has ended ({error})"
    gone = ", ".join(each.job_id for each in left if each not in kept)
    words = [f"cancelled, since the run has ended: job {gone}"] if gone else []
    words += [f"job {each.job_id} stays, on one node: another job waits for its exit code" for each in kept]
    return "; ".join(words)


def _waits_for(job: LiveJob, other: LiveJob) -> bool:
    return bool(re.search(rf"(?<![0-9])({other.job_id}|{other.array}_\*)(?![0-9])", job.dependency))
