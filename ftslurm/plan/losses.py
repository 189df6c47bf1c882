"""What is left of the time of a job that fails, and where the rest goes: closed forms, for exponential failures.

The renewal argument behind `core.interval.efficiency`: a segment is the work between two saves and the save behind it,
and is begun anew until nothing fails in it. M is the mean time between failures of the job, t the work of a segment, C
the save, R the restart (which may fail, too, and is begun anew then), D the time after each failure in which nothing
runs that could fail. Then a segment fails e^((t + C)/M) - 1 times, a recovery takes e^(R/M) failures in all, and

    work and saves   M (e^((t + C)/M) - 1), of which saves M (e^(C/M) - 1)
    restarts         (e^((t + C)/M) - 1) M (e^(R/M) - 1)
    dead time        (e^((t + C)/M) - 1) e^(R/M) D

sum to (M + D) e^(R/M) (e^((t + C)/M) - 1). All times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import exp, expm1

from ftslurm.core.interval import BEYOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What saving and failing costs a job, in seconds.

    Attributes:
        save_s: how long training stands still for a save.
        detect_s: from a failure until it is known.
        restart_s: from there, or from the end of the wait, to the first new step.
        wait_s: how long a job waits for nodes after a failure, on the mean of all failures.
    """

    save_s: float
    detect_s: float = 0.0
    restart_s: float = 0.0
    wait_s: float = 0.0

    @property
    def failure_s(self) -> float:
        """What a failure costs beside the work that is done again, if nothing fails meanwhile."""
        return self.detect_s + self.wait_s + self.restart_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The shares of the wall time; they sum to 1. A share of the time in which the run is to be trained is an ETTR."""

    productive: float
    redone: float
    saving: float
    detecting: float
    restarting: float
    waiting: float

    def items(self) -> tuple[tuple[str, float], ...]:
        """Names and shares, in the order of the table."""
        return tuple((each.name, getattr(self, each.name)) for each in fields(self))


HOPELESS = Split(productive=0.0, redone=1.0, saving=0.0, detecting=0.0, restarting=0.0, waiting=0.0)
"""What is left where a segment is never done: nothing, and all of it is work that has to be done again."""


def split(interval_s: float, costs: Costs, mtbf_s: float) -> Split:
    """Return where the time goes, exactly.

    Args:
        interval_s: the work between two saves; more than 0.
        costs: of saves and failures.
        mtbf_s: the mean time between failures of the job; more than 0.
    """
    if (interval_s + costs.save_s + costs.restart_s) / mtbf_s > BEYOND:
        return HOPELESS
    failures = expm1((interval_s + costs.save_s) / mtbf_s)
    recoveries = failures * exp(costs.restart_s / mtbf_s)
    saving_s = mtbf_s * expm1(costs.save_s / mtbf_s)
    spent = {
        "productive": interval_s,
        "redone": max(mtbf_s * failures - saving_s - interval_s, 0.0),
        "saving": saving_s,
        "detecting": recoveries * costs.detect_s,
        "restarting": failures * mtbf_s * expm1(costs.restart_s / mtbf_s),
        "waiting": recoveries * costs.wait_s,
    }
    whole_s = sum(spent.values())
    return Split(**{name: seconds / whole_s for name, seconds in spent.items()})


def ettr(interval_s: float, costs: Costs, mtbf_s: float) -> float:
    """Return the expected share of productive time; arguments as of `split`."""
    return split(interval_s, costs, mtbf_s).productive


def linear(interval_s: float, costs: Costs, mtbf_s: float) -> float:
    """Return Meta's linear form of the same, which holds where little is lost; never below 0.

    (1 - N r (u + t/2)) / (1 + w/t), with N r = 1/M, u the cost of a failure and w that of a save (Kokolis et al.,
    HPCA 2025, arXiv 2410.21680). Arguments as of `split`.
    """
    lost = (costs.failure_s + interval_s / 2) / mtbf_s
    return max(1.0 - lost, 0.0) / (1 + costs.save_s / interval_s)
