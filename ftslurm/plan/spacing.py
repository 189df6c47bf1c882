"""How faults follow each other in time, beside what independent faults of one rate (Poisson) would do.

For Poisson the gaps are exponential: their coefficient of variation is 1, and so is the shape of the Weibull law that
fits them best. A shape below 1 means that a fault makes the next one more likely, as in real fleets (Schroeder and
Gibson, DSN 2006). Faults of one moment leave gaps of 0, which no Weibull law has: they count for the mean and the
coefficient of variation and not for the shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, fmean, stdev

LEAST_GAPS = 5
SHAPE_ERROR = 0.7797
"""sqrt(6) / pi: the standard error of a shape k is 0.78 k / sqrt(n) (Thoman and others, *Technometrics* 11, 1969)."""
_SHAPES = (0.02, 50.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spacing:
    """The gaps between faults.

    Attributes:
        gaps: how many there are, `zero` of them between faults of one moment.
        mean_s: their mean.
        cv: their standard deviation over the mean.
        shape: the Weibull shape by maximum likelihood; `low` and `high`: its 95 % interval.
        p: how likely so extreme a shape were for Poisson.
    """

    gaps: int
    zero: int
    mean_s: float
    cv: float
    shape: float
    low: float
    high: float
    p: float


def spacing(times: Sequence[float]) -> Spacing | None:
    """Return what there is to say of the gaps between these times, which are sorted; None where they are too few."""
    gaps = [after - before for before, after in pairwise(times)]
    whole = [gap for gap in gaps if gap > 0.0]
    if len(whole) < LEAST_GAPS or max(whole) == min(whole):
        return None
    mean, shape = fmean(gaps), weibull_shape(whole)
    error = SHAPE_ERROR / math.sqrt(len(whole))
    return Spacing(
        gaps=len(gaps),
        zero=len(gaps) - len(whole),
        mean_s=mean,
        cv=stdev(gaps) / mean,
        shape=shape,
        low=shape * math.exp(-1.96 * error),
        high=shape * math.exp(1.96 * error),
        p=2.0 * NormalDist().cdf(-abs(math.log(shape)) / error),
    )


def weibull_shape(gaps: Sequence[float]) -> float:
    """The shape k of maximum likelihood: sum(x^k ln x) / sum(x^k) - 1/k = mean(ln x), whose left side grows with k.

    Args:
        gaps: positive numbers in any unit, not all the same.
    """
    most = max(gaps)
    logs = [math.log(gap / most) for gap in gaps]
    mean = fmean(logs)
    low, high = _SHAPES
    for _ in range(60):
        middle = math.sqrt(low * high)
        powers = [math.exp(middle * each) for each in logs]
        weighted = sum(power * log for power, log in zip(powers, logs, strict=True)) / sum(powers)
        if weighted - 1.0 / middle < mean:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
