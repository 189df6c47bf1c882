"""How much work lies between two saves under a policy: as recorded, or as another `checkpoint.every` wants it."""

from __future__ import annotations

from math import inf

from ftslurm.core.savepolicy import Moment, SavePolicy, interval_s
from ftslurm.insight.text import took
from ftslurm.plan.otherpolicy import Rules
from ftslurm.plan.recorded import Recorded


def rhythm(found: Recorded, rules: Rules, own: Rules) -> tuple[float, str]:
    """Return the seconds of work between two saves (infinite: none are made), and how that is known."""
    if rules.saving == own.saving:
        if found.interval_s is None:
            return inf, "no save was recorded: a failure loses all work"
        return found.interval_s, f"saves come {took(found.interval_s)} apart, as recorded (median)"
    wanted, unknown = _wanted(found, rules.saving)
    if not wanted:
        known = inf if found.interval_s is None else found.interval_s
        return known, f"how often {unknown} saves was not recorded: taken as before"
    seconds = max(min(wanted), rules.saving.min_interval_s, rules.saving.min_steps * (found.step_s or 0.0))
    also = f"; how often {unknown} saves besides was not recorded" if unknown else ""
    return seconds, f"saves come {took(seconds)} apart, by checkpoint.every{also}"


def _wanted(found: Recorded, saving: SavePolicy) -> tuple[list[float], str]:
    """What each trigger comes to, in seconds; and the names of those of which nobody knows."""
    wanted, unknown = [], []
    moment = Moment(
        step=0, now_s=0.0, last_save_step=0, last_save_s=0.0, save_cost_s=found.pause_s or 0.0, mtbf_s=found.mtbf_s
    )
    by_time = interval_s(saving, moment)
    if by_time is not None:
        wanted.append(by_time)
    if saving.every_steps and found.step_s:
        wanted.append(saving.every_steps * found.step_s)
    elif saving.every_steps:
        unknown.append("every.steps")
    unknown += ["every.epoch"] if saving.epoch_end else []
    unknown += ["every.metric"] if saving.metric else []
    return wanted, ", ".join(unknown)
