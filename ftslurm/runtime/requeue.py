"""Giving the job back to Slurm, smaller or without the condemned nodes.

The order matters: requeue, NumTasks, NumNodes (before NumTasks the job would stay pending with BadConstraints for ever:
M28), ExcNodeList, StartTime. After the requeue everything is on borrowed time: Slurm ends this very process after
KillWait, so SIGTERM is ignored by the caller and every call has a deadline. What was written is read back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ftslurm.config import Config
from ftslurm.core.actions import Requeue
from ftslurm.core.events import RequeueAnswered
from ftslurm.errors import FtslurmError, TryAgain
from ftslurm.slurm import nodeset
from ftslurm.slurm.client import JobField, SlurmClient

log = logging.getLogger(__name__)

TRIES = 8
PAUSE_S = 0.5


def requeue(slurm: SlurmClient, job_id: str, asked: Requeue, config: Config) -> RequeueAnswered:
    """Requeue the job and shape it for its next start; every refusal is in the answer, none is swallowed."""
    try:
        slurm.requeue(job_id)
    except FtslurmError as error:
        return RequeueAnswered(ok=False, detail=str(error))
    low, high = config.resources.nodes
    changes: list[tuple[JobField, str]] = []
    if low == high:
        changes += [(JobField.NUM_TASKS, str(asked.num_tasks)), (JobField.NUM_NODES, str(asked.num_nodes))]
    exclude = _known(slurm, asked.exclude)
    if exclude:
        changes.append((JobField.EXC_NODE_LIST, nodeset.fold(exclude)))
    changes.append((JobField.START_TIME, "now"))
    problems = [problem for field, value in changes if (problem := _change(slurm, job_id, field, value))]
    detail = "; ".join([_read_back(slurm, job_id, asked, exclude), *problems])
    log.info("requeued: %s", detail)
    return RequeueAnswered(ok=True, detail=detail)


def _known(slurm: SlurmClient, names: tuple[str, ...]) -> tuple[str, ...]:
    """One name that Slurm does not know makes it refuse the whole list (A1)."""
    try:
        unknown = set(slurm.unknown_nodes(names))
    except FtslurmError as error:
        log.warning("cannot check the names of the nodes to exclude: %s", error)
        return names
    return tuple(name for name in names if name not in unknown)


def _change(slurm: SlurmClient, job_id: str, field: JobField, value: str) -> str:
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
    text = (
        f"job {job_id} is {now.state}, asks for {now.num_nodes} nodes and excludes {', '.join(now.exc_nodes) or 'none'}"
    )
    if missing:
        text += f"; NOT excluded: {', '.join(missing)}"
    if now.num_nodes is not None and now.num_nodes != asked.num_nodes:
        text += f"; {asked.num_nodes} nodes were wanted"
    return text
