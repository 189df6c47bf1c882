"""Whose answers make a majority, and what a supervisor does that has neither a majority nor the lease for long.

It requeues the job: it never sits. Slurm is asked first whether another supervisor has taken the run over meanwhile,
which this one could not see: a takeover leaves its epoch in the job's comment.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from ftslurm.core.diagnosis import Cause
from ftslurm.errors import FtslurmError
from ftslurm.slurm.client import JobField, SlurmClient
from ftslurm.slurm.records import JobState

if TYPE_CHECKING:
    from ftslurm.core.state import Run
    from ftslurm.runtime.supervisor import Supervisor

log = logging.getLogger(__name__)

MARK = re.compile(r'[, ]*"?ftslurm-epoch"?[=:](\d+)')


def voters(run: Run) -> tuple[str, ...]:
    """Return the nodes that count: those that Slurm has not taken out of the job."""
    return tuple(
        node for node in run.nodes if node not in run.condemned or run.condemned[node].cause is not Cause.EXCISED
    )


def leave_mark(job_id: str, epoch: int) -> None:
    """Write into the job's comment that a supervisor of this epoch acts for it; what stood there stays."""
    slurm = SlurmClient()
    try:
        comment = MARK.sub("", slurm.job(job_id).comment)
        # What `submit` wrote is JSON, and stays so; a comment of the user's own is only added to.
        is_json = comment.startswith('{"') and comment.endswith("}")
        marked = f'{comment[:-1]},"ftslurm-epoch":{epoch}}}' if is_json else f"{comment} ftslurm-epoch={epoch}".strip()
        slurm.update_job(job_id, JobField.COMMENT, marked)
    except FtslurmError as error:
        log.warning("the takeover cannot be noted in the job's comment: %s", error)


def give_up(supervisor: Supervisor) -> None:
    """Requeue the job, unless it has another supervisor or belongs to another incarnation by now."""
    job = supervisor.context.job
    slurm = SlurmClient()
    try:
        info = slurm.job(job.job_id)
        marks = [int(found) for found in MARK.findall(info.comment)]
        if max(marks, default=0) > supervisor.epoch or info.restart_count not in (None, job.restart_count):
            supervisor.authority.fence("Slurm says that the job has another supervisor by now")
            return
        if info.state is not JobState.RUNNING:
            log.warning("without a quorum, and the job is %s", info.state)
            return
        if supervisor.authority.fresh():
            return  # it came back while Slurm was asked
        seconds = supervisor.context.config.heartbeat.no_quorum_after
        supervisor.voice.say(
            f"neither most of the nodes nor shared storage could be reached for {seconds:.0f} s: the job is requeued"
        )
        supervisor.requeuing = True
        slurm.requeue(job.requeue_id)
    except FtslurmError as error:
        log.warning("without a quorum, and Slurm does not take the job back: %s", error)
        return
    supervisor.authority.fence("the job was requeued for want of a quorum")
