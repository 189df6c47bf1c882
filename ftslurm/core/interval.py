"""How often to save: the interval that loses the least time, from the cost of a save and the time between failures.

Saving more often costs `cost_s` each time, saving less often loses more work with every failure. Both formulas take
seconds: the time that training stands still for one save, and the mean time between failures of the whole job (of one
node, divided by the nodes). They return the work between two saves, without the save itself.

Young's is the first order (CACM 17, 1974); Daly's higher order (FGCS 22, 2006) is within 2 % of the exact optimum as
long as a save costs no more than the time between failures. Near the optimum the loss is flat: where a save costs less
than 1 % of the time between failures, nobody can tell the two apart.
"""

from __future__ import annotations

from math import exp, expm1, sqrt


def young(cost_s: float, mtbf_s: float) -> float:
    """Return Young's interval in seconds.

    Raises:
        ValueError: a cost that is negative, or a time between failures that is not positive.
    """
    _check(cost_s, mtbf_s)
    return sqrt(2 * cost_s * mtbf_s)


def daly(cost_s: float, mtbf_s: float) -> float:
    """Return Daly's interval in seconds; where a save costs more than twice the time between failures, that time.

    Raises:
        ValueError: as `young`.
    """
    _check(cost_s, mtbf_s)
    if cost_s >= 2 * mtbf_s:
        return mtbf_s
    half = cost_s / (2 * mtbf_s)
    return young(cost_s, mtbf_s) * (1 + sqrt(half) / 3 + half / 9) - cost_s


def efficiency(interval_s: float, cost_s: float, mtbf_s: float, restart_s: float = 0.0) -> float:
    """Return the share of the time that is useful work, exactly, for failures that come at random (exponential).

    Args:
        interval_s: the work between two saves; more than 0.
        cost_s: the time that training stands still for one.
        mtbf_s: the mean time between failures of the job; they may also hit a save or a restart.
        restart_s: from a failure to the first new work.
    """
    _check(cost_s, mtbf_s)
    segment_s = mtbf_s * exp(restart_s / mtbf_s) * expm1((interval_s + cost_s) / mtbf_s)
    return interval_s / segment_s


def _check(cost_s: float, mtbf_s: float) -> None:
    if not (cost_s >= 0 and mtbf_s > 0):
        raise ValueError(f"a save of {cost_s} s and {mtbf_s} s between failures have no interval")
