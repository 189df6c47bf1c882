"""How a program's speed depends on the number of its ranks, from the steps that it has made at the sizes it has had.

Two laws, each with two numbers that least squares finds in (ranks, seconds of a step):

    Amdahl (AFIPS 1967)     the ranks share a fixed work:        t(n) = serial + shared / n
    Gustafson (CACM 1988)   each rank brings work of its own:    n / t(n) = serial + shared x n

The second is Gustafson's scaled speed-up n - s (n - 1), as ranks' work a second. Steps alone do not say what work is in
them, so the slope of log t over log n decides: -1 were ranks that share a work perfectly, 0 ranks that each do their
own; whichever is nearer. Work that is shared very badly (slope above -0.5) is taken for the second kind then.

The work of a rank in a smaller world n, as a share of that in the full one N, is N t(N) / (n t(n)) with a shared work
and t(N) / t(n) with ranks' own. By either law it is not below 1: fewer ranks wait less for one another. Sizes that were
measured are compared as they were measured, which may well be below 1 (memory that is too small). Where one was not,
the law speaks, unless it misses what was measured by more than a fifth, or would have to reach further beyond the
measured sizes than these are apart: then the nearest of them do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import log
from statistics import fmean, median

LISTED = 4
"""So many sizes are named in a reason."""
MISSED = 0.2
"""A law that misses a measured step by more than this share is not believed."""


class Kind(StrEnum):
    """Which law."""

    AMDAHL = "amdahl"
    GUSTAFSON = "gustafson"


WORK = {Kind.AMDAHL: "the ranks share the work of a step", Kind.GUSTAFSON: "each rank has its own work in a step"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """A law with its numbers, neither of them negative: seconds (Amdahl), or ranks' work a second (Gustafson)."""

    kind: Kind
    serial: float
    shared: float

    def step_s(self, ranks: int) -> float:
        """The seconds of a step."""
        if self.kind is Kind.AMDAHL:
            return self.serial + self.shared / ranks
        return ranks / (self.serial + self.shared * ranks)

    def misses(self, steps_s: Mapping[int, float]) -> float:
        """By how much it misses the worst of the measured steps, as a share of it."""
        return max(abs(self.step_s(ranks) / step_s - 1) for ranks, step_s in steps_s.items())

    @property
    def serial_share(self) -> float:
        """The share of one rank's time that does not get less with more ranks; 0 is perfect scaling."""
        return self.serial / (self.serial + self.shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """The work of a rank in a smaller world, as a share of that in the full one, and how that is known."""

    share: float
    reason: str


def middles(stepped: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Return the median seconds of a step for every number of ranks, the smallest first."""
    sizes = sorted({ranks for ranks, _ in stepped})
    return {ranks: median(step_s for each, step_s in stepped if each == ranks) for ranks in sizes}


def fit(steps_s: Mapping[int, float]) -> Law | None:
    """Return the law for seconds of a step by number of ranks; None for fewer than two sizes: there is no slope.

    Raises:
        ValueError: a number of ranks or a time that is not positive.
    """
    if any(ranks < 1 or step_s <= 0 for ranks, step_s in steps_s.items()):
        raise ValueError(f"steps take time, on at least one rank: {dict(steps_s)}")
    if len(steps_s) < 2:
        return None
    kind = kind_of(steps_s)
    if kind is Kind.AMDAHL:
        serial, shared = _line([(1 / ranks, step_s) for ranks, step_s in steps_s.items()])
    else:
        serial, shared = _line([(float(ranks), ranks / step_s) for ranks, step_s in steps_s.items()])
    return Law(kind=kind, serial=serial, shared=shared)


def kind_of(steps_s: Mapping[int, float]) -> Kind:
    """Return which law the times at two or more sizes follow: that of the nearer ideal."""
    points = [(log(ranks), log(step_s)) for ranks, step_s in steps_s.items()]
    return Kind.AMDAHL if _slope(points) < -0.5 else Kind.GUSTAFSON


def worth(stepped: Sequence[tuple[int, float]], smaller: int, full: int) -> Worth | None:
    """Return what a rank does in a smaller world; None where the sizes that the run has had do not say it.

    Args:
        stepped: (ranks, seconds of a step), as often as measured.
        smaller: the ranks of the smaller world.
        full: those of the full one.
    """
    steps_s = middles(stepped)
    law = fit(steps_s)
    if law is None:
        return None
    if steps_s.keys() >= {smaller, full}:
        return _compared(law.kind, steps_s, smaller, full)
    measured = ", ".join(f"{steps_s[ranks]:.3g} s with {ranks}" for ranks in list(steps_s)[-LISTED:])
    if law.misses(steps_s) <= MISSED and reaches(steps_s, smaller) and reaches(steps_s, full):
        by = f" by {law.kind.title()}'s law (measured: {measured})"
        return _compared(law.kind, {ranks: law.step_s(ranks) for ranks in (smaller, full)}, smaller, full, by)
    near, last = _nearest(steps_s, smaller, full)
    by = f" (no law says it, so these sizes stand for {smaller} and {full})"
    return _compared(law.kind, steps_s, near, last, by) if near < last else None


def reaches(steps_s: Mapping[int, float], ranks: int) -> bool:
    """Tell whether a size is no further beyond those that were measured than they are apart: noise grows on the way."""
    least, most = min(steps_s), max(steps_s)
    return least * least <= ranks * most and ranks * least <= most * most


def _compared(kind: Kind, steps_s: Mapping[int, float], smaller: int, full: int, by: str = "") -> Worth:
    small_s, full_s = steps_s[smaller], steps_s[full]
    share = full_s / small_s * (full / smaller if kind is Kind.AMDAHL else 1.0)
    reason = (
        f"a rank does {share:.2f} times as much among {smaller} as among {full}: a step takes {small_s:.3g} s against"
        f" {full_s:.3g} s{by}, and {WORK[kind]}"
    )
    return Worth(share=share, reason=reason)


def _nearest(steps_s: Mapping[int, float], smaller: int, full: int) -> tuple[int, int]:
    """Return the measured sizes that are nearest to two others; one twice where none is below that for `full`."""
    last = min(steps_s, key=lambda ranks: abs(log(ranks / full)))
    below = [ranks for ranks in steps_s if ranks < last]
    return min(below, key=lambda ranks: abs(log(ranks / smaller)), default=last), last


def _slope(points: Sequence[tuple[float, float]]) -> float:
    across, up = fmean(x for x, _ in points), fmean(y for _, y in points)
    return sum((x - across) * (y - up) for x, y in points) / sum((x - across) ** 2 for x, _ in points)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the line of least squares, as value at 0 and slope, among those where neither is negative."""
    slope = _slope(points)
    start = fmean(y for _, y in points) - slope * fmean(x for x, _ in points)
    if slope < 0:
        return fmean(y for _, y in points), 0.0
    if start < 0:
        return 0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points)
    return start, slope
