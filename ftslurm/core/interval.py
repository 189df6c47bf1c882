"""How often to save: the interval that loses the least time, from the cost of a save and the time between failures.

Saving more often costs `cost_s` each time, saving less often loses more work with every failure. Both formulas take
seconds: the time that training stands still for one save, and the mean time between failures of the whole job (of one
node, divided by the nodes). They return the work between two saves, without the save itself.

Young's is the first order (CACM 17, 1974); Daly's higher order (FGCS 22, 2006) is within 2 % of the exact optimum as
long as a save costs no more than the time between failures. Near the optimum the loss is flat: where a save costs less
than 1 % of the time between failures, nobody can tell the two apart. `optimum` is exact for failures that come at
random (exponential): the root of (1 - t/M) e^((t + C)/M) = 1, which Daly writes with Lambert's function.
"""

from __future__ import annotations

from math import exp, expm1, log1p, sqrt

BEYOND = 700.0
"""Exponents from here on are no number any more, and what they divide is nothing."""
_HOPELESS = 30.0
_ROUNDS = 100


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


def optimum(cost_s: float, mtbf_s: float) -> float:
    """Return the interval in seconds that loses the least, exactly, for exponential failures.

    Newton's method on -x - log(1 - x) = C/M, which is convex: from the right of its root it never jumps over it.

    Raises:
        ValueError: as `young`.
    """
    _check(cost_s, mtbf_s)
    share = cost_s / mtbf_s
    if share >= _HOPELESS:
        return mtbf_s
    x = min(sqrt(2 * share), -expm1(-1 - share))
    for _ in range(_ROUNDS if x else 0):
        step = (-x - log1p(-x) - share) * (1 - x) / x
        x -= step
        if abs(step) <= 1e-14 * x:
            break
    return x * mtbf_s


def efficiency(
    interval_s: float, cost_s: float, mtbf_s: float, restart_s: float = 0.0, waiting_s: float = 0.0
) -> float:
    """Return the share of the time that is useful work, exactly, for failures that come at random (exponential).

    The time of a segment is (M + D) e^(R/M) (e^((t + C)/M) - 1); 0 where it is too long to be a number.

    Args:
        interval_s: the work between two saves; more than 0.
        cost_s: the time that training stands still for one.
        mtbf_s: the mean time between failures of the job; they may also hit a save or a restart.
        restart_s: from a failure, or the end of the wait after it, to the first new work.
        waiting_s: after each failure, the time in which nothing runs that could fail.
    """
    _check(cost_s, mtbf_s)
    if (interval_s + cost_s + restart_s) / mtbf_s > BEYOND:
        return 0.0
    segment_s = (mtbf_s + waiting_s) * exp(restart_s / mtbf_s) * expm1((interval_s + cost_s) / mtbf_s)
    return interval_s / segment_s


def _check(cost_s: float, mtbf_s: float) -> None:
    if not (cost_s >= 0 and mtbf_s > 0):
        raise ValueError(f"a save of {cost_s} s and {mtbf_s} s between failures have no interval")
