"""How well a generator reproduces a trace: the same numbers of both, and the distance of their distributions.

A generator draws as many nodes for as long a time as the trace has, again and again. Of each number the mean over the
replications is shown beside the trace's, and whether the trace lies in the middle 90 % of them. Of each distribution
(gaps between the fleet's faults, times from a repair to the node's next fault, repairs) the Kolmogorov-Smirnov distance
is taken between the trace and all replications together; its critical value is the distance that 95 % of the
replications stay below themselves (a parametric bootstrap). The textbook's 1.36 / sqrt(n) is for independent values,
and faults that come in clusters are not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random

from ftslurm.plan.generators import Generator
from ftslurm.plan.measures import Measures, distance, gaps_s, measure, repairs_s, returns_s
from ftslurm.plan.trace import Outage, Trace

REPLICATIONS = 100
NEAR = 0.10
"""A number is reproduced if its mean is within so much of the trace's."""
NUMBERS = tuple(each.name for each in fields(Measures))
DISTRIBUTIONS = ("gaps", "returns", "repairs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number of a model beside that of the trace; NaN is not known."""

    trace: float
    mean: float
    low: float
    high: float

    @property
    def off(self) -> float:
        """How far the mean is from the trace, as a part of the latter."""
        return self.mean / self.trace - 1 if self.trace else math.nan

    @property
    def usual(self) -> bool:
        """Whether the trace lies in the middle 90 % of the replications."""
        return self.low <= self.trace <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """A Kolmogorov-Smirnov distance, and the one that the model itself keeps below 19 times of 20."""

    found: float
    critical: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a generator makes of as many nodes and as long a time as the trace has."""

    numbers: dict[str, Number]
    distances: dict[str, Distance]


def judge(generator: Generator, trace: Trace, seed: str, replications: int = REPLICATIONS) -> Judgement:
    """Compare; the same seed gives the same judgement.

    Raises:
        ValueError: fewer than two replications.
    """
    if replications < 2:
        raise ValueError(f"{replications} replications have no spread: at least 2 are wanted")
    dice = [Random(f"{seed}/{each}") for each in range(replications)]  # noqa: S311 - a simulation, no secret
    drawn = [generator.outages(trace.nodes, trace.span_s, each) for each in dice]
    observed = measure(trace.outages, trace.nodes, trace.span_s)
    measures = [measure(each, trace.nodes, trace.span_s) for each in drawn]
    numbers = {name: _number(getattr(observed, name), [getattr(each, name) for each in measures]) for name in NUMBERS}
    samples = [_samples(each, trace.span_s) for each in drawn]
    own = _samples(trace.outages, trace.span_s)
    distances = {name: _distance(own[name], [each[name] for each in samples]) for name in DISTRIBUTIONS}
    return Judgement(numbers=numbers, distances=distances)


def _samples(outages: Sequence[Outage], span_s: float) -> dict[str, list[float]]:
    found = (gaps_s(outages), returns_s(outages, span_s), repairs_s(outages, span_s))
    return {name: sorted(values) for name, values in zip(DISTRIBUTIONS, found, strict=True)}


def _number(trace: float, values: Sequence[float]) -> Number:
    known = sorted(each for each in values if not math.isnan(each))
    if not known:
        return Number(trace=trace, mean=math.nan, low=math.nan, high=math.nan)
    return Number(trace=trace, mean=statistics.fmean(known), low=_at(known, 0.05), high=_at(known, 0.95))


def _distance(own: Sequence[float], samples: Sequence[Sequence[float]]) -> Distance:
    together = sorted(value for each in samples for value in each)
    usual = sorted(distance(each, together) for each in samples if each)
    return Distance(found=distance(own, together), critical=_at(usual, 0.95) if usual else math.nan)


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
