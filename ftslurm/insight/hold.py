"""Who holds a run: whether another job may be started on it, and if not, why not.

Two supervisors on one run would be the worst that can happen, so only knowledge frees a run: its own word that it has
ended, or Slurm's word that its job has. Nobody knowing a job is not that word: a controller that lost its state forgets
jobs whose processes are alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.insight.summary import Summary
from ftslurm.insight.text import took
from ftslurm.slurm.records import JobInfo, JobState, Source

if TYPE_CHECKING:
    from ftslurm.journal import Holder

RETURN_S = 300.0
"""Slurm may still requeue a job that was preempted or lost a node; it does so within minutes."""
LEASE_FRESH_S = 90.0
"""A supervisor renews its lease every 30 s."""
_MAY_RETURN = frozenset({JobState.PREEMPTED, JobState.NODE_FAIL, JobState.BOOT_FAIL})


class Hold(StrEnum):
    """FREE: nobody. HELD: somebody. UNCERTAIN: somebody may."""

    FREE = "free"
    HELD = "held"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The answer, and the job and sentence behind it."""

    hold: Hold
    job_id: str | None = None
    reason: str = ""


def who_holds(
    summary: Summary, linked: Sequence[str], jobs: Mapping[str, JobInfo], lease: Holder | None, now: float
) -> Judgement:
    """Tell whether another job may be started on a run.

    Args:
        summary: its journal's word.
        linked: all jobs of it that are known, oldest first.
        jobs: Slurm's word on them, by id; one that nobody knows has the state UNKNOWN, or is missing.
        lease: who acts or acted for it.
        now: epoch seconds.
    """
    for job_id in linked:
        job = jobs.get(job_id)
        if job is None or job.state is JobState.UNKNOWN or (summary.over and job_id == summary.job_id):
            continue
        if not job.state.is_over:
            return Judgement(hold=Hold.HELD, job_id=job_id, reason=_alive(job))
        if not summary.over and _may_return(job, now):
            reason = f"it is {job.state}, and Slurm may start it again by itself"
            return Judgement(hold=Hold.HELD, job_id=job_id, reason=reason)
    if summary.over or not linked:
        return Judgement(hold=Hold.FREE)
    last = summary.job_id or linked[-1]
    known = jobs.get(last)
    if known is not None and known.state.is_over:
        return Judgement(hold=Hold.FREE, job_id=last)
    if lease is not None and now - lease.t < LEASE_FRESH_S:
        return Judgement(hold=Hold.HELD, job_id=last, reason="its supervisor is alive, whatever Slurm knows of the job")
    return Judgement(hold=Hold.UNCERTAIN, job_id=last, reason="neither slurmctld nor accounting knows it any more")


def lease_words(lease: Holder | None, now: float) -> str:
    """The lease in words, for the message of a refusal."""
    if lease is None:
        return "no supervisor has held it yet"
    age = took(max(now - lease.t, 0.0))
    how = ", which has taken over" if lease.takeover else ""
    return f"supervisor of epoch {lease.epoch} on {lease.host}{how}, lease last renewed {age} ago"


def _alive(job: JobInfo) -> str:
    where = f" ({job.reason})" if job.reason and job.state is JobState.PENDING else ""
    return f"it is {job.state}{where}"


def _may_return(job: JobInfo, now: float) -> bool:
    recent = job.end_time is None or now - job.end_time < RETURN_S
    return job.state in _MAY_RETURN and job.source is Source.CONTROLLER and job.requeue is not False and recent
