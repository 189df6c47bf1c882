"""What the supervisor says, as lines of its log: how loud each is, and which node, rank and attempt it is about.

A verdict on a failure is an error; what may become one, or costs something, is a warning. Who collects logs from a
fleet filters by the level, and by these labels.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ftslurm.core.diagnosis import Cause, Diagnosis, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ftslurm.core.actions import Say
    from ftslurm.core.state import Run

_ASKED_FOR = frozenset({Cause.CANCEL, Cause.TIME_LIMIT, Cause.PREEMPTION})
"""Ends that somebody wanted, or that were to be expected."""
_ERRORS = (frozenset(Cause) - _ASKED_FOR) | {
    "checkpoint_refused",
    "commit_failed",
    "drain_failed",
    "fence_unconfirmed",
    "health_critical",
    "health_failed",
    "last_words",
    "loss_nan",
    "memory_killed",
    "not_durable",
    "part_gone",
    "plan_abort",
    "restore_failed",
    "store_differs",
}
_WARNINGS = _ASKED_FOR | {
    "checkpoint_gone",
    "checkpoint_suspect",
    "copy_failed",
    "fabric_silent",
    "health_shared",
    "health_warning",
    "loss_spike",
    "node_left_out",
    "node_undecided",
    "observer_doubts_itself",
    "plan_relaunch",
    "plan_requeue",
    "plan_shrink",
    "plan_spare",
    "probe_unknown",
    "progress_unseen",
    "ranks_stalled",
    "restore_over",
    "ring_lost",
    "save_refused",
    "stall_storage",
    "straggler",
    "supervisor_restarted",
    "taken_over",
    "too_many_suspects",
    "write_guard",
}


def level_of(slug: str) -> int:
    """Return how loud something that was said is."""
    if slug in _ERRORS:
        return logging.ERROR
    return logging.WARNING if slug in _WARNINGS else logging.INFO


def extra_of(said: Say, run: Run) -> dict[str, Any]:
    """Return what a log line about it carries besides its text; `run` is the state after it."""
    level = level_of(said.slug)
    event: dict[str, Any] = {"event.action": said.slug} if said.slug else {}
    if level == logging.ERROR:
        event |= {"error.type": said.slug, "error.message": said.text}
    return {**event, "labels": _place(said, run)}


def _place(said: Say, run: Run) -> dict[str, str]:
    """The node, rank and attempt of the verdict that these words are; nothing where they are none."""
    for attempt, found in _verdicts(run):
        if (found.cause, found.reason) != (said.slug, said.text):
            continue
        about = {"attempt": str(attempt)} if attempt is not None else {}
        rank, _, node = found.where.rpartition("@")
        if found.scope is Scope.RANK and rank.isdecimal():
            return {**about, "rank": rank, "node": node}
        return {**about, "node": found.where} if found.scope is Scope.NODE else about
    return {}


def _verdicts(run: Run) -> Iterator[tuple[int | None, Diagnosis]]:
    """Those that stand, newest first, with their attempts where they are known."""
    for each in reversed(run.failures):
        yield each.attempt, each.diagnosis
    number = run.attempt.number if run.attempt is not None else None
    if run.blame is not None:
        yield number, run.blame
    for found in run.condemned.values():
        yield number, found
