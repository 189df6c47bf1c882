"""Giving the job back to Slurm, smaller or without the condemned nodes.

The order matters: requeue, NumTasks, NumNodes (before NumTasks the job would stay pending with BadConstraints for ever:
M28), ExcNodeList. After the requeue everything is on borrowed time: Slurm ends every step after KillWait, and a batch
script that does not trap SIGTERM at once, with all that runs in it (measured on 22.05: before a second command comes
through). So an agent does it, which lives in a step of its own and outlives SIGTERM. What was written is read back.

StartTime=now is not among them: while this process lives the job is COMPLETING, and at the end of that Slurm sets the
start two minutes off again (measured on 22.05). From outside it works in seconds: `ftslurm submit --wait` does it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ftslurm.core.actions import Requeue
from ftslurm.core.events import RequeueAnswered
from ftslurm.errors import FtslurmError, TryAgain
from ftslurm.slurm import nodeset
from ftslurm.slurm.client import JobField, SlurmClient

log = logging.getLogger(__name__)

TRIES = 8
PAUSE_S = 0.5


def requeue(slurm: SlurmClient, job_id: str, asked: Requeue, *, any_size: bool) -> RequeueAnswered:
    """Requeue the job and shape it for its next start; every refusal is in the answer, none is swallowed.

    `any_size`: the job takes a range of nodes, which is left as it is.
    """
    try:
        slurm.requeue(job_id)
    except FtslurmError as error:
        return RequeueAnswered(ok=False, detail=str(error))
    exclude, forgiven = excludable(slurm, job_id, asked)
    changes: list[tuple[JobField, str]] = []
    if not any_size:
        changes += [(JobField.NUM_TASKS, str(asked.num_tasks)), (JobField.NUM_NODES, str(asked.num_nodes))]
    if exclude:
        changes.append((JobField.EXC_NODE_LIST, nodeset.fold(exclude)))
    problems = [problem for field, value in changes if (problem := change(slurm, job_id, field, value))]
    detail = "; ".join([_read_back(slurm, job_id, asked, exclude), *problems])
    log.info("requeued: %s", detail)
    return RequeueAnswered(ok=True, detail=detail, forgiven=forgiven)


def excludable(slurm: SlurmClient, job_id: str, asked: Requeue) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the whole list of nodes to exclude, and those that are forgiven: without them the partition is too small.

    The list is what the job excludes already, which is the user's or the node ledger's, and the condemned nodes. One
    name that Slurm does not know makes it refuse the whole list (A1). A job that asks for more nodes than are left
    would be pending for ever; a node that is still bad is found out again when its agent does not come up.
    """
    try:
        job = slurm.job(job_id)
        present = slurm.partition_nodes(job.partition)
    except FtslurmError as error:
        log.warning("cannot check the nodes to exclude: %s", error)
        return asked.exclude, ()
    before = tuple(name for name in job.exc_nodes if name not in asked.exclude)
    known = tuple(name for name in asked.exclude if name in present)
    left = len(set(present) - set(before) - set(known))
    if left >= asked.num_nodes:
        return (*before, *known) if known else (), ()
    return (), known


def change(slurm: SlurmClient, job_id: str, field: JobField, value: str) -> str:
    """Change one field; "not right now" is tried again, since the job is still COMPLETING."""
    return _patient(lambda: slurm.update_job(job_id, field, value), f"{field}={value}")


def _patient(call: Callable[[], None], what: str) -> str:
    problem = ""
    for _ in range(TRIES):
        try:
            call()
        except TryAgain as error:
            problem = f"{what}: {error}"
            time.sleep(PAUSE_S)
        except FtslurmError as error:
            return f"{what}: {error}"
        else:
            return ""
    return problem


def _read_back(slurm: SlurmClient, job_id: str, asked: Requeue, exclude: tuple[str, ...]) -> str:
    try:
        now = slurm.job(job_id)
    except FtslurmError as error:
        return f"requeued, but the request cannot be read back: {error}"
    missing = sorted(set(exclude) - set(now.exc_nodes))
    # NumNodes cannot be read back: while COMPLETING it counts the nodes that are still busy (measured on 22.05).
    excluded = ", ".join(now.exc_nodes) or "none"
    text = f"job {job_id} is {now.state}, was set to {asked.num_nodes} nodes and excludes {excluded}"
    if missing:
        text += f"; NOT excluded: {', '.join(missing)}"
    if asked.exclude and not exclude and set(asked.exclude) - set(now.exc_nodes):
        names = ", ".join(asked.exclude)
        text += f"; without {names} the partition has fewer than {asked.num_nodes} nodes: not excluded"
    return text
