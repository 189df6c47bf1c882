"""What follows from a failure rate: the chance to fail, to have enough nodes left, the spares to hold, availability.

Rule: times in seconds, rates as failures per second (`Rate.per_second` of a node). A rate counts the time in which the
node is up, and is taken to be constant; where faults come in clusters, `ftslurm.plan.generators` say more than this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ftslurm.plan.gamma import poisson_at_most

WANTED = 0.99
"""Spares suffice for this share of the time: P99, as ByteRobust (SOSP 2025) sizes its warm standby."""


def failure_probability(rate: float, span_s: float) -> float:
    """Return 1 - e^(-rate t): the chance of a device or node to fail within `span_s` seconds.

    Raises:
        ValueError: a negative rate or time.
    """
    if not (rate >= 0 and span_s >= 0):
        raise ValueError(f"a rate of {rate} per second over {span_s} s is no chance of a failure")
    return -math.expm1(-rate * span_s)


def series_rate(parts: Iterable[tuple[float, int]]) -> float:
    """Return the rate of something that fails as soon as one of its parts does: a node of devices, a job of nodes.

    Args:
        parts: for each kind of part its own rate per second, and how many of it there are.

    Raises:
        ValueError: a negative rate or number.
    """
    found = 0.0
    for rate, count in parts:
        if not (rate >= 0 and count >= 0):
            raise ValueError(f"{count} parts with a rate of {rate} per second there are not")
        found += rate * count
    return found


def k_of_n(needed: int, total: int, alive: float) -> float:
    """Return the probability that at least `needed` of `total` equal, independent parts are alive.

    The binomial sum, exactly: its terms are summed relative to the largest one, from the mode outward, so that nothing
    overflows and no factorial is taken; 100,000 parts cost some milliseconds.

    Args:
        needed: k; 0 or less is certain, more than `total` impossible.
        total: n.
        alive: the probability of each part to be alive.

    Raises:
        ValueError: a probability outside [0, 1], or a negative number of parts.
    """
    if not (0 <= alive <= 1 and total >= 0):
        raise ValueError(f"{total} parts, each alive with probability {alive}, there are not")
    if needed <= 0 or needed > total or alive in (0.0, 1.0):
        return 1.0 if needed <= 0 or (needed <= total and alive == 1.0) else 0.0
    odds = alive / (1 - alive)
    mode = min(int((total + 1) * alive), total)
    above = _terms(mode, 1, total, odds)
    below = _terms(mode, -1, total, odds)
    terms = [*reversed(below[1:]), *above]
    first = mode - len(below) + 1
    cut = min(max(needed - first, 0), len(terms))
    whole = math.fsum(terms)
    return math.fsum(terms[cut:]) / whole


def _terms(mode: int, direction: int, total: int, odds: float) -> list[float]:
    """The binomial's terms from the mode in one direction, relative to that of the mode, until they vanish."""
    terms, count = [1.0], mode
    while terms[-1] > 0 and 0 <= count + direction <= total:
        ratio = (total - count) / (count + 1) * odds if direction > 0 else count / ((total - count + 1) * odds)
        terms.append(terms[-1] * ratio)
        count += direction
    return terms


def spares(nodes: int, rate: float, mean_repair_s: float, wanted: float = WANTED) -> int:
    """Return how many spare nodes suffice for the share `wanted` of the time.

    The nodes in repair are Poisson(nodes x rate x mean repair), whatever the distribution of repair times (the queue
    M/G/infinity): so the mean counts, not the median, and repairs that wait for each other need more.

    Args:
        nodes: that the job needs.
        rate: failures of one node per second.
        mean_repair_s: from a failure until the node can be used again.
        wanted: below 1.

    Raises:
        ValueError: a number that cannot be.
    """
    mean = nodes * rate * mean_repair_s
    if not (0 <= mean < math.inf and 0 < wanted < 1 and nodes >= 0):
        raise ValueError(f"{nodes} nodes with {mean} of them in repair have no spares for {wanted} of the time")
    low, high = -1, 1
    while poisson_at_most(high, mean) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if poisson_at_most(middle, mean) < wanted else (low, middle)
    return high


def availability(rate: float, mean_repair_s: float) -> float:
    """Return the share of the time in which a node can be used: 1 / (1 + rate x mean repair).

    Raises:
        ValueError: a negative rate or time.
    """
    if not (rate >= 0 and mean_repair_s >= 0):
        raise ValueError(f"a rate of {rate} per second and a repair of {mean_repair_s} s have no availability")
    return 1 / (1 + rate * mean_repair_s)
