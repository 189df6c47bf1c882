"""Where faults come from in a simulation: generators of outages, from the simplest to what a fleet has really shown.

    Exponential  equal nodes that fail independently of each other and of their past
    Weibull      the same with clusters in time: gaps of the fleet with shape 0.62 (InfiniteHBD trace)
    Lemons       15 % of the nodes fail five times as often (AIReSim's default)
    Clustered    nodes of different quality, relapses after a repair, bursts at one moment, good and bad weeks
    Replay       what has happened, again

Rules: a generator of random numbers is an argument, so that a seed gives the same outages anywhere; nodes are numbers
from 0; a node that is out does not fail. A rate counts the time in which nodes are up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from ftslurm.plan.trace import Outage, Trace


class Generator(Protocol):
    """Makes the outages of one run."""

    def outages(self, nodes: int, span_s: float, dice: Random) -> Sequence[Outage]:
        """The outages of `nodes` nodes in `span_s` seconds, in the order of their beginning."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """How long a repair takes: lognormal (Schroeder and Gibson, DSN 2006)."""

    median_s: float = 20.4 * 3600
    mean_s: float = 132.8 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """Equal, independent nodes without a memory."""

    per_1000_node_days: float
    repair: Repair = Repair()

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """Draw outages."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Weibull:
    """Gaps between the faults of the fleet with a shape below 1: clusters in time."""

    per_1000_node_days: float
    shape: float = 0.62
    repair: Repair = Repair()

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """Draw outages."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Lemons:
    """A share of the nodes fails `factor` times as often as the others; the mean is the rate."""

    per_1000_node_days: float
    share: float = 0.15
    factor: float = 5.0
    repair: Repair = Repair()

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """Draw outages."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustered:
    """What a fleet has shown; the defaults are fitted to the InfiniteHBD trace, and `plan fit` finds a site's own."""

    per_1000_node_days: float
    repair: Repair = Repair()

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """Draw outages."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A trace again: all of its nodes, or as many of them, drawn by chance."""

    trace: Trace

    def outages(self, nodes: int, span_s: float, dice: Random) -> list[Outage]:
        """The trace's outages; ValueError where it has fewer nodes or a shorter span."""
        raise NotImplementedError
