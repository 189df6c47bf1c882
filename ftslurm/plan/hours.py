"""Whether faults prefer an hour of the day or a day of the week: Rayleigh's test on the circle.

Each moment is an arrow on a dial that goes round once in the period; without a preference the arrows cancel. The p is
Wilkie's approximation (*Applied Statistics* 32, 1983). Faults within an hour count once, and those of a longer series
are taken as independent, so that a small p is needed to say anything.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass

WEEK_S = 7 * 86400.0
ALPHA = 0.01
LEAST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """Moments prefer a part of a period: around `peak_s` after its begin, by so much more than on the other side."""

    period_s: float
    peak_s: float
    strength: float
    p: float


def rhythm(times: Sequence[float], period_s: float) -> Rhythm | None:
    """Return what a test says; None where there are too few moments.

    `strength` is the mean arrow's length: 0 for none, 1 for always at the same time.
    """
    count = len(times)
    if count < LEAST:
        return None
    arrow = sum(cmath.exp(2j * math.pi * (t % period_s) / period_s) for t in times)
    length = abs(arrow)
    p = math.exp(math.sqrt(1 + 4 * count + 4 * (count * count - length * length)) - (1 + 2 * count))
    peak_s = cmath.phase(arrow) / (2 * math.pi) % 1.0 * period_s
    return Rhythm(period_s=period_s, peak_s=peak_s, strength=length / count, p=min(p, 1.0))
