"""Timers of a run: a name, and a token that tells the newest of that name from older ones."""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.actions import SetTimer
from ftslurm.core.state import Run


def set_timer(run: Run, name: str, after_s: float) -> tuple[Run, SetTimer]:
    """Return the run with a timer set, replacing one of the same name, and the action that starts it."""
    token = run.next_token
    timers = {**run.timers, name: token}
    return replace(run, timers=timers, next_token=token + 1), SetTimer(name=name, token=token, after_s=after_s)
