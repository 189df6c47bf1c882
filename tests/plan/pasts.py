"""Pasts with a known truth, and the public trace's first half, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

import pytest

from ftslurm.core.lemons import DAY_S
from ftslurm.plan.past import Exposure, Fault, Past
from ftslurm.plan.sources import of_trace
from ftslurm.plan.trace import read_trace

TRACE = Path(__file__).resolve().parents[3] / "shared" / "data" / "gpu-node-faults-first-174-days.json"
with_trace = pytest.mark.skipif(not TRACE.exists(), reason=f"the public fault trace is not at {TRACE}")


@cache
def public() -> Past:
    """The first 174 days of stepfun-ai/InfiniteHBD-Trace, 400 nodes."""
    return of_trace(read_trace(TRACE, 400), "trace", whole=True)


@cache
def public_events() -> tuple[tuple[str, float, str], ...]:
    """The same, as (node, day, event) from the file itself."""
    return tuple((each["node_id"], each["event_time"], each["event_type"]) for each in json.loads(TRACE.read_text()))


def past(faults: Sequence[tuple[str, float]], days: float, nodes: int, repair_days: float = 0.1) -> Past:
    """A past of (node, day of its fault); every node was watched all the time."""
    found = [
        Fault(node=node, at=day * DAY_S, cause="gpu", over=(day + repair_days) * DAY_S)
        for node, day in sorted(faults, key=lambda pair: pair[1])
    ]
    watch = Exposure(nodes=nodes, words="all of the time", always=(0.0, days * DAY_S))
    return Past(faults=tuple(found), begun=0.0, until=days * DAY_S, fleet=nodes, exposure=watch, dated=False)


def poisson(rate: float, days: float, dice: Random, begun: float = 0.0) -> list[float]:
    """Days of faults of a constant rate a day, from `begun` on."""
    found, at = [], begun
    while (at := at + dice.expovariate(rate)) < begun + days:
        found.append(at)
    return found


def fleet(rates: Mapping[str, float], days: float, dice: Random) -> Past:
    """Nodes with faults of their own constant rates a day, independent of each other."""
    faults = [(node, day) for node, rate in rates.items() for day in poisson(rate, days, dice)]
    return past(faults, days, len(rates))
