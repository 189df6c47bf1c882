"""Who may take the lease of a run, and from when on the taker may act.

- A job that begins on an existing run waits until Slurm says that the job before it has ended.
- A supervisor that its parent started again does not take a run back that another host has taken over meanwhile.
- A successor takes it from the one holder whose silence was made sure of.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ftslurm import journal
from ftslurm.errors import FtslurmError, TryAgain
from ftslurm.runtime.authority import LEASE_FRESH_S
from ftslurm.runtime.successor import Legacy
from ftslurm.runtime.supervisor import Context, claim
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.env import JobEnv

log = logging.getLogger(__name__)

TRIES = 4
PAUSE_S = 0.3
FIRST_POLL_S, POLL_S = 0.3, 5.0
"""This job holds its nodes while it asks: soon at first, since most jobs that end are over in a second."""
MARGIN_S = 0.1
SKEW_S = 10.0
"""How far the clocks of two nodes may be apart: a lease that was renewed longer ago does not count anywhere."""


def take(context: Context, legacy: Legacy | None) -> tuple[journal.Lease, int, float] | None:
    """Return the lease, the epoch and when it may be acted in (monotonic); None where another supervisor acts.

    Raises:
        StorageError: shared storage does not let us.
    """
    if legacy is not None:
        last = journal.holder(context.paths)
        try:
            lease, epoch = claim(context, legacy.expected, takeover=True)
        except TryAgain as error:
            log.warning("no takeover: %s", error)
            return None
        return lease, epoch, _acts_from(last)
    for _ in range(TRIES):
        before = journal.holder(context.paths)
        if before is None:
            return (*claim(context), 0.0)
        same = (before.job_id, before.restart) == (context.job.requeue_id, context.job.restart_count)
        if same and before.takeover:
            return None
        if before.job_id != context.job.requeue_id:
            _await_end(before.job_id)
        try:
            lease, epoch = claim(context, before.epoch)
        except TryAgain as error:
            log.warning("%s; trying again", error)
            time.sleep(PAUSE_S)
            continue
        # A parent has seen the end of the supervisor before this one; of another incarnation nobody has.
        return lease, epoch, 0.0 if same else _acts_from(before)
    return (*claim(context), _acts_from(None))


def _acts_from(before: journal.Holder | None) -> float:
    """Return from when on (monotonic) no renewal of the lease counts any more for the holder before."""
    if before is not None and time.time() - before.t > LEASE_FRESH_S + SKEW_S:
        return 0.0
    return time.monotonic() + LEASE_FRESH_S + MARGIN_S


def _await_end(job_id: str) -> None:
    """Wait until Slurm says that a job has ended, or that it does not know it."""
    said, pause_s = False, FIRST_POLL_S
    while True:
        try:
            state = SlurmClient().job(job_id).state
        except FtslurmError as error:
            log.warning("whether job %s has ended is not known yet: %s", job_id, error)
        else:
            if not state.holds_nodes:
                return
            if not said:
                print(f"[ftslurm] waiting for the end of job {job_id}, which runs this run", flush=True)  # noqa: T201
                said = True
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, POLL_S)


def start_anew(job: JobEnv) -> dict[str, Any]:
    """Requeue a job whose supervisor was lost before it had written anything that could be gone on from."""
    try:
        SlurmClient().requeue(job.requeue_id)
    except FtslurmError as error:
        return {"park": f"nothing is known of this run yet, and Slurm does not take the job back: {error}"}
    return {"park": "the supervisor was lost before the run had begun: the job was requeued"}
