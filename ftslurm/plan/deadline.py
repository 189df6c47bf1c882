"""Whether the work that is wanted fits into the time limit, and how many jobs it takes if not."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ftslurm.insight.text import took
from ftslurm.plan import table
from ftslurm.plan.gamma import poisson_at_most
from ftslurm.plan.inputs import Inputs
from ftslurm.plan.reliability import spares
from ftslurm.plan.table import Row

SURE = 0.99
NEVER_S = 100 * 365 * 86400.0
"""What takes longer is not waited for."""
UNKNOWN = "plan.work is not given"


def deadline(inputs: Inputs, ettr: float) -> Iterator[Row]:
    """The expected wall time of the work, beside the time limit, and the jobs of a chain.

    Args:
        inputs: what is known.
        ettr: the expected share of productive time.
    """
    work_s, limit_s = inputs.config.plan.work, inputs.config.resources.time
    yield table.seconds(
        "work", "work that is wanted", work_s, UNKNOWN if work_s is None else "plan.work: without any loss"
    )
    if limit_s is None:
        yield table.seconds("limit", "time limit", None, "resources.time is not given: the partition's own")
    else:
        yield table.seconds("limit", "time limit", limit_s, "resources.time")
    if work_s is None:
        return
    wall_s = work_s / ettr if ettr * NEVER_S > work_s else math.inf
    yield table.seconds("wall", "time that it takes", wall_s, "the work by the expected ETTR, in jobs that do not end")
    if wall_s < math.inf:
        yield table.number("failures", "failures meanwhile", wall_s / inputs.mttf_s, "on the mean")
        yield _gives_up(inputs, wall_s)
    if limit_s is not None:
        yield from _chain(inputs, wall_s, limit_s)


def _gives_up(inputs: Inputs, wall_s: float) -> Row:
    """The chance that so many failures come that the run is given up, all jobs of a chain together."""
    most, failing = inputs.config.recovery.max_attempts, inputs.rate.per_second
    chance = 1 - poisson_at_most(most - 1, wall_s / inputs.mttf_s)
    enough = spares(inputs.nodes, failing, wall_s, SURE) + 1
    why = (
        f"after recovery.max_attempts {most}, all jobs together; {enough:,} suffice for {100 * SURE:g} of 100 such runs"
    )
    return table.share("given_up", "chance to be given up", max(chance, 0.0), why)


def _chain(inputs: Inputs, wall_s: float, limit_s: float) -> Iterator[Row]:
    """How many jobs, where each of them begins with a restart and ends with a last save."""
    grace_s = inputs.config.checkpoint.grace
    usable_s = limit_s - inputs.restart.value - grace_s
    if usable_s <= 0 or wall_s == math.inf:
        why = f"a job of {took(limit_s)} has no time left after a restart and checkpoint.grace"
        yield table.number(
            "jobs", "jobs", None, why if usable_s <= 0 else "it never gets done: the job fails too often"
        )
        return
    jobs = 1 if wall_s + inputs.restart.value <= limit_s else math.ceil(wall_s / usable_s)
    why = f"each begins with a restart and leaves {took(grace_s)} (checkpoint.grace) for its last save"
    yield table.number("jobs", "jobs", jobs, f"{why}; {_continues(inputs, jobs)}")
    queue_s = inputs.config.plan.queue_wait
    waits_s = (jobs - 1) * (queue_s or 0.0)
    whole_s = wall_s + jobs * inputs.restart.value + (jobs - 1) * grace_s + waits_s
    known = f"{took(waits_s)} between jobs in the queue (plan.queue_wait)"
    unknown = "without the wait between jobs, which is not known: give plan.queue_wait"
    yield table.seconds("whole", "from start to end", whole_s, unknown if queue_s is None and jobs > 1 else known)


def _continues(inputs: Inputs, jobs: int) -> str:
    recovery = inputs.config.recovery
    named = f"recovery.continue: {recovery.continue_}"
    if jobs == 1:
        return "it fits"
    if recovery.continue_ == "none":
        return f"{named}: the run ends with its first job"
    if recovery.chain and recovery.chain < jobs:
        return f"{named} is {jobs - recovery.chain} too few"
    return f"{named} goes on by itself"
