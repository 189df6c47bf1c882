"""How long things take in a projection: as measured in the recorded run, else assumed, and then it is said."""

from __future__ import annotations

from dataclasses import dataclass

from ftslurm.core.pricing import REQUEUE_DELAY_S, RESTART_S
from ftslurm.insight.text import took
from ftslurm.plan.otherpolicy import Rules
from ftslurm.plan.recorded import Recorded
from ftslurm.plan.rhythm import rhythm


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """How long things take in the model, in seconds, and how that is known (`words`)."""

    start_s: float
    restart_s: float
    load_s: float
    queue_s: float
    interval_s: float
    pause_s: float
    words: tuple[str, ...] = ()


def assumed(found: Recorded, rules: Rules, own: Rules, queue_s: float | None = None) -> Assumed:
    """Return how long things take in the model under `rules`; `queue_s` is the queue's wait, by the user's word."""
    interval_s, why = rhythm(found, rules, own)
    start_s = found.start_s or 0.0
    restart_s = found.restart_s if found.restart_s is not None else found.start_s or RESTART_S
    wait_s, wait = _queue(found, queue_s)
    measured = "measured (median)" if found.restart_s is not None else "not measured: taken as a job's start"
    return Assumed(
        start_s=start_s,
        restart_s=restart_s,
        load_s=found.load_s or 0.0,
        queue_s=wait_s,
        interval_s=interval_s,
        pause_s=found.pause_s or 0.0,
        words=(why, _pause(found), f"a launch takes {took(restart_s)}, {measured}", wait),
    )


def _pause(found: Recorded) -> str:
    if found.pause_s is None:
        return "for how long the ranks stand still to save was not recorded: taken as 0 s"
    return f"the ranks stand still for {took(found.pause_s)} to save, as recorded (median)"


def _queue(found: Recorded, said_s: float | None) -> tuple[float, str]:
    if said_s is not None:
        return said_s, f"a requeued job waits {took(said_s)}, as --queue-wait says"
    if found.queue_s is not None:
        return found.queue_s, f"a requeued job waits {took(found.queue_s)}, as recorded (median)"
    least = f"{REQUEUE_DELAY_S:.0f} s, Slurm's own delay"
    return REQUEUE_DELAY_S, f"how long a requeued job waits was not recorded: taken as {least}, at the least"
