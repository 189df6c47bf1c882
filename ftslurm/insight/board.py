"""One row of `ftslurm status`: the journal's word on a run and Slurm's word on its job, put together.

Rules: the journal says what the run is doing, Slurm says whether its job is there. Where Slurm was not asked, or did
not answer, nothing is concluded from its silence. What neither of them knows is None, never a guess; zero is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ftslurm.core.events import Phase
from ftslurm.insight.export import of_save, times
from ftslurm.insight.summary import Summary
from ftslurm.insight.text import folded
from ftslurm.slurm.parse import short_state
from ftslurm.slurm.records import JobInfo, JobState


class Standing(StrEnum):
    """What can be said of a run by both. UNCERTAIN: Slurm could not be asked; DAMAGED: the journal cannot be read."""

    WAITING = "waiting"
    LIVE = "live"
    OVER = "over"
    LOST = "lost"
    UNCERTAIN = "uncertain"
    DAMAGED = "damaged"


LOST = "lost"
ENDED_SILENTLY = "ended?"
DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run as it is shown. `phase` is the journal's, or `lost`, `ended?` or `damaged`."""

    run_id: str
    run_dir: str
    name: str
    standing: Standing
    phase: str
    job_id: str | None = None
    job_state: JobState | None = None
    summary: Summary = field(default_factory=Summary)
    nodes: tuple[str, ...] = ()
    num_nodes: int | None = None
    time_s: float | None = None
    left_s: float | None = None
    checkpoint_age_s: float | None = None
    reason: str = ""
    error: str = ""

    @property
    def state_short(self) -> str | None:
        """The ST column."""
        return None if self.job_state is None else short_state(self.job_state)

    @property
    def nodelist_or_reason(self) -> str:
        """The nodes where the run is on some, else the reason why not in parentheses; both where both matter."""
        nodes = folded(self.nodes)
        reason = f"({self.reason})" if self.reason else ""
        ills = self.health if self.standing is Standing.LIVE else ""
        return " ".join(part for part in (nodes, reason, f"({ills})" if ills else "") if part)

    @property
    def health(self) -> str:
        """The nodes that are not well, and how they are; empty when all are, as far as is known."""
        return ", ".join(f"{node} {ills[0].level}: {ills[0].metric}" for node, ills in self.summary.ills.items())

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        told = self.summary
        return {
            "run_id": self.run_id,
            "run_dir": self.run_dir,
            "name": self.name,
            "standing": self.standing,
            "phase": self.phase,
            "job_id": self.job_id,
            "job_state": self.job_state,
            "epoch": told.epoch or None,
            "restart": told.restart if told.entries else None,
            "requeues": told.requeues,
            "attempt": told.attempt,
            "ranks": told.ranks,
            "nodes": self.num_nodes,
            "nodes_wanted": told.wanted,
            "nodelist": list(self.nodes),
            "excluded": list(told.excluded),
            "supervisor": told.supervisor or None,
            "taken_over": told.taken_over,
            "health": {node: [ill.plain() for ill in ills] for node, ills in told.ills.items()},
            "step": told.newest.step if told.newest else None,
            "checkpoint": of_save(told.newest),
            "checkpoint_age_s": _rounded(self.checkpoint_age_s),
            "durable_step": told.durable.step if told.durable else None,
            **times("started", told.started),
            **times("ended", told.ended),
            "time_s": _rounded(self.time_s),
            "time_left_s": _rounded(self.left_s),
            "exit_code": told.code,
            "reason": self.reason or None,
            "error": self.error or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which run a row is about."""

    run_id: str
    run_dir: str
    job_ids: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A run id is the run's name, the day and six digits."""
        return self.run_id.rsplit("-", 2)[0]


def damaged(who: Identity, error: str) -> Row:
    """A run whose journal cannot be read."""
    job_id = who.job_ids[-1] if who.job_ids else None
    return Row(
        run_id=who.run_id, run_dir=who.run_dir, name=who.name, standing=Standing.DAMAGED, phase=DAMAGED, job_id=job_id,
        reason="its journal cannot be read", error=error,
    )  # fmt: skip


def row(who: Identity, summary: Summary, jobs: Mapping[str, JobInfo] | None, now: float) -> Row:
    """Put both words together.

    Args:
        who: the run, and every job that is linked to it, oldest first.
        summary: the journal's word.
        jobs: Slurm's word on these jobs, by id; None when Slurm did not answer.
        now: epoch seconds.
    """
    job_id, job = current_job(who.job_ids, summary, jobs or {})
    standing, phase, reason = _standing(summary, job_id, job, asked=jobs is not None)
    started, ended = _span(summary, job, standing)
    nodes, number = _nodes(summary, job, standing)
    newest = summary.newest
    return Row(
        run_id=who.run_id,
        run_dir=who.run_dir,
        name=who.name,
        standing=standing,
        phase=phase,
        job_id=job_id,
        job_state=job.state if job else None,
        summary=summary,
        nodes=nodes,
        num_nodes=number,
        time_s=None if started is None else max((ended or now) - started, 0.0),
        left_s=_left(summary, job, standing, now),
        checkpoint_age_s=now - newest.seen if newest and newest.seen is not None else None,
        reason=reason,
    )


def current_job(
    linked: Sequence[str], summary: Summary, jobs: Mapping[str, JobInfo]
) -> tuple[str | None, JobInfo | None]:
    """The job that stands for the run now: one that runs, else the next that waits, else the newest that is known."""
    ids = list(dict.fromkeys([*([summary.job_id] if summary.job_id else []), *linked]))
    known = [(job_id, jobs[job_id]) for job_id in ids if job_id in jobs]
    running = [pair for pair in known if pair[1].state.holds_nodes or pair[1].state is JobState.COMPLETING]
    waiting = [pair for pair in known if not pair[1].state.is_over]
    if running or waiting:
        job = (running[-1:] or waiting)[0][1]
        return job.job_id, job
    if summary.job_id:
        return summary.job_id, jobs.get(summary.job_id)
    return (ids[-1], jobs.get(ids[-1])) if ids else (None, None)


def _standing(summary: Summary, job_id: str | None, job: JobInfo | None, *, asked: bool) -> tuple[Standing, str, str]:
    """(standing, phase, reason)."""
    alive = job is not None and not job.state.is_over
    if summary.over and not (alive and job is not None and _is_another(job, summary)):
        return Standing.OVER, summary.phase, "" if summary.code == 0 else summary.reason
    if job is not None and alive:
        return _alive(summary, job)
    if not asked:
        return Standing.UNCERTAIN, summary.phase, "Slurm does not answer"
    if job_id is None:
        return Standing.LOST, LOST, "no job of it is known"
    if job is None:
        return Standing.LOST, LOST, f"Slurm knows no job {job_id}; to go on: ftslurm resume {job_id}"
    return Standing.LOST, ENDED_SILENTLY, f"job is {job.state}; to go on: ftslurm resume {job_id}"


def _alive(summary: Summary, job: JobInfo) -> tuple[Standing, str, str]:
    if job.state is not JobState.PENDING:
        return Standing.LIVE, Phase.SUBMITTED if summary.over else summary.phase, ""
    reason = job.reason or "pending"
    if summary.over:
        return Standing.WAITING, Phase.SUBMITTED, f"{reason}; continues the run that is {summary.phase}"
    phase = Phase.SUBMITTED if not summary.entries else Phase.REQUEUED
    return Standing.WAITING, phase, reason


def _is_another(job: JobInfo, summary: Summary) -> bool:
    """Whether a job is not the one in which the run ended; that one may still be there for a moment."""
    return summary.job_id not in (job.job_id, f"{job.array_job_id}_{job.array_task_id}")


def _span(summary: Summary, job: JobInfo | None, standing: Standing) -> tuple[float | None, float | None]:
    """When this job started, and when it ended; Slurm's word where it has one."""
    if standing is Standing.WAITING:
        return None, None
    if standing is Standing.LIVE and job is not None:
        return job.start_time or (None if summary.over else summary.started), None
    if standing is Standing.UNCERTAIN:
        return summary.started, None
    over = job.end_time if job is not None and job.state.is_over else None
    return summary.started, summary.ended or over or summary.last


def _nodes(summary: Summary, job: JobInfo | None, standing: Standing) -> tuple[tuple[str, ...], int | None]:
    if standing in (Standing.LIVE, Standing.UNCERTAIN) and not summary.over:
        nodes = summary.nodes or summary.allocation or (job.nodes if job else ())
        return nodes, len(nodes) or (job.num_nodes if job else None)
    if standing is Standing.OVER:
        return summary.nodes, len(summary.nodes) or None
    if job is not None and not job.state.is_over:
        return job.nodes, job.num_nodes
    return (), len(summary.nodes) or None


def _left(summary: Summary, job: JobInfo | None, standing: Standing, now: float) -> float | None:
    if standing is Standing.UNCERTAIN and summary.limit is not None:
        return max(summary.limit - now, 0.0)
    if standing is not Standing.LIVE or job is None:
        return None
    # An old limit belongs to the job in which the run ended.
    end = job.end_time if job.end_time is not None or summary.over else summary.limit
    return None if end is None else max(end - now, 0.0)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
