"""Whose answers make a majority, and what a supervisor does that has neither a majority nor the lease for long.

It ends the job, so that the run goes on as configured: it never sits. Slurm is asked first whether another supervisor
has taken the run over meanwhile, which this one could not see: a takeover leaves its epoch in the job's comment.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from typing import TYPE_CHECKING

from ftslurm.core.actions import Requeue
from ftslurm.core.diagnosis import Cause
from ftslurm.core.events import RequeueAnswered
from ftslurm.core.recovery import NONE
from ftslurm.core.situation import ruled
from ftslurm.errors import FtslurmError
from ftslurm.runtime import onward
from ftslurm.slurm.client import JobField, SlurmClient
from ftslurm.slurm.records import JobState

if TYPE_CHECKING:
    from ftslurm.core.state import Run
    from ftslurm.runtime.supervisor import Supervisor

log = logging.getLogger(__name__)

ONWARD_S = 60.0
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
    """Let the run go on elsewhere, unless it has another supervisor or belongs to another incarnation by now."""
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
        supervisor.voice.say(f"neither most of the nodes nor shared storage could be reached for {seconds:.0f} s")
        # From here on SIGTERM is what was asked for.
        supervisor.requeuing = True
        how = _leave(supervisor, slurm, may_requeue=info.requeue is not False)
    except FtslurmError as error:
        log.warning("without a quorum, and Slurm does not take the job back: %s", error)
        return
    supervisor.authority.fence(f"for want of a quorum {how}")


def _leave(supervisor: Supervisor, slurm: SlurmClient, *, may_requeue: bool) -> str:
    """End the job, and have the run go on in the way that the job has found out; returns what was done."""
    run, policy, job = supervisor.run, ruled(supervisor.run, supervisor.policy), supervisor.context.job
    if policy.continue_by == onward.REQUEUE:
        supervisor.voice.say("the job is requeued")
        slurm.requeue(job.requeue_id)
        return "the job was requeued"
    nodes = run.wanted + policy.spares
    ranks = nodes * (policy.tasks_per_node or policy.ranks_per_node)
    # Who is at fault is not known: no node is left out.
    asked = Requeue(num_nodes=nodes, num_tasks=ranks, exclude=(), reason="no quorum", by=policy.continue_by)
    answer = _gone_on(supervisor, slurm, asked)
    if not answer.ok and may_requeue and policy.continue_by == onward.RESUBMIT:
        supervisor.voice.say(f"no job could be submitted to go on ({answer.detail}): this one is requeued")
        slurm.requeue(job.requeue_id)
        return "the job was requeued"
    supervisor.voice.say(f"the job is cancelled: {'the run goes on in ' if answer.ok else ''}{answer.detail}")
    slurm.cancel(job.requeue_id)
    return "the job was cancelled"


def _gone_on(supervisor: Supervisor, slurm: SlurmClient, asked: Requeue) -> RequeueAnswered:
    """See to what comes after this job. The run's folder may be on the storage that hangs: nobody waits for long."""
    job, paths = supervisor.context.job, supervisor.context.paths
    if asked.by == NONE:
        return RequeueAnswered(ok=False, detail=f"`ftslurm resume {job.requeue_id}` continues the run")
    answers: queue.SimpleQueue[RequeueAnswered] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(onward.go_on(job, paths, asked)), name="onward", daemon=True).start()
    try:
        return answers.get(timeout=ONWARD_S)
    except queue.Empty:
        others = [each for each in slurm.find_submitted(paths.run_id) if each != job.job_id]
        detail = f"job {others[-1]}" if others else f"its folder {paths.root} cannot be read"
        return RequeueAnswered(ok=bool(others), detail=detail)
