"""How faults spread over nodes, and which nodes are the most unreliable, with what is known of their rates.

Three questions to each node, whose faults are Poisson(theta_i x days). What was its rate: faults over days, with what
is known of theta_i from them alone, Gamma(faults + 1/2, days) (Jeffreys' prior). What is to be expected of it: theta_i
comes from one Gamma(a, b) of the fleet, fitted by moments, and the mean is (a + faults) / (b + days); that draws few
faults towards the fleet's rate, since most of them are bad luck. Is it chance: how likely it were that any node of the
fleet has so many faults, were all alike (Poisson tail x nodes, Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ftslurm.core.lemons import poisson_tail
from ftslurm.plan.gamma import quantile, upper
from ftslurm.plan.past import Exposure, Fault, Past, by_node

TOPS = (0.05, 0.10, 0.20)
_ALIKE_NODE_DAYS = 1e6
"""The weight of the fleet's rate where nodes differ by no more than chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How faults spread over the nodes.

    Attributes:
        nodes: the fleet.
        mean: faults a node.
        index: of dispersion; 1 for Poisson (for equal exposures: variance over mean). None: the exposure is unknown.
        p: how likely so large an index were for Poisson (chi-square).
        never: nodes without any fault, and `never_expected` of Poisson.
        tops: for some shares of the nodes, the worst ones, which share of the faults they have.
    """

    nodes: int
    mean: float
    index: float | None
    p: float | None
    never: int
    never_expected: float | None
    tops: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One node. Rates are in faults a day; None where the exposure is unknown.

    Attributes:
        node: its name.
        faults: how many it had.
        days: for how long it was watched.
        rate: faults a day; `low` and `high` are its 95 % interval.
        expected: the rate to expect of it, by what the whole fleet shows.
        p: how likely any node of the fleet had so many by chance.
    """

    node: str
    faults: int
    days: float | None = None
    rate: float | None = None
    low: float | None = None
    high: float | None = None
    expected: float | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Belief:
    """What is known of a node before its faults are counted: Gamma(faults, node_days)."""

    faults: float
    node_days: float


def ranking(past: Past) -> tuple[Standing, ...]:
    """Return every node that had a fault, the most unreliable first."""
    known = by_node(past.rated)
    counts = {node: len(faults) for node, faults in known.items()}
    watch, rate = past.exposure, past.rate
    if watch is None or not rate:
        found = [Standing(node=node, faults=count) for node, count in counts.items()]
        return tuple(sorted(found, key=lambda each: (-each.faults, each.node)))
    belief = belief_of(counts, watch)
    rows = [_standing(node, count, watch, (belief, rate)) for node, count in counts.items() if watch.node_days(node)]
    return tuple(sorted(rows, key=lambda each: (-(each.expected or 0.0), each.node)))


def _standing(node: str, count: int, watch: Exposure, fleet: tuple[Belief, float]) -> Standing:
    belief, rate = fleet
    days = watch.node_days(node)
    return Standing(
        node=node,
        faults=count,
        days=days,
        rate=count / days,
        low=quantile(count + 0.5, 0.025) / days,
        high=quantile(count + 0.5, 0.975) / days,
        expected=(belief.faults + count) / (belief.node_days + days),
        p=min(poisson_tail(count, rate * days) * watch.nodes, 1.0),
    )


def belief_of(counts: dict[str, int], watch: Exposure) -> Belief:
    """Fit the fleet's Gamma distribution by moments: what the counts vary more than Poisson is how nodes differ."""
    days, total = _days(counts, watch), watch.total
    mean = sum(counts.values()) / total
    squares = sum((counts.get(node, 0) - mean * time) ** 2 * times for node, time, times in days)
    variance = (squares - mean * total) / sum(time * time * times for _, time, times in days)
    weight = min(mean / variance, _ALIKE_NODE_DAYS) if variance > 0.0 else _ALIKE_NODE_DAYS
    return Belief(mean * weight, weight)


def _days(counts: dict[str, int], watch: Exposure) -> list[tuple[str, float, int]]:
    """(node, its days, how many such nodes there are): those without a name and a fault are alike."""
    named = sorted(counts.keys() | watch.stays.keys())
    found = [(node, watch.node_days(node), 1) for node in named]
    unnamed = watch.nodes - len(named)
    return [*found, ("", watch.node_days(""), unnamed)] if watch.always and unnamed > 0 else found


def spread(past: Past) -> Spread | None:
    """Return how faults spread; None where the fleet is unknown, or smaller than what had faults."""
    known = by_node(past.rated)
    nodes = past.exposure.nodes if past.exposure else past.fleet
    if not nodes or nodes < max(len(known), 2) or not known:
        return None
    counts = {node: len(faults) for node, faults in known.items()}
    total = sum(counts.values())
    index = p = expected = None
    watch, rate = past.exposure, past.rate
    if watch is not None and rate:
        days = [(counts.get(node, 0), rate * time, times) for node, time, times in _days(counts, watch) if time > 0.0]
        chi = sum(times * (count - mean) ** 2 / mean for count, mean, times in days)
        index, p = chi / (nodes - 1), upper((nodes - 1) / 2, chi / 2)
        expected = sum(times * math.exp(-mean) for _, mean, times in days)
    return Spread(
        nodes=nodes,
        mean=total / nodes,
        index=index,
        p=p,
        never=nodes - len(known),
        never_expected=expected,
        tops=_tops(sorted(counts.values(), reverse=True), nodes),
    )


def _tops(counts: Sequence[int], nodes: int) -> tuple[tuple[float, float], ...]:
    return tuple((share, sum(counts[: max(round(share * nodes), 1)]) / sum(counts)) for share in TOPS)


def causes(faults: Sequence[Fault]) -> tuple[tuple[str, int, int], ...]:
    """(Cause, its faults, on how many nodes), the most frequent first."""
    found: dict[str, list[str]] = {}
    for each in faults:
        found.setdefault(each.cause, []).append(each.node)
    rows = ((cause, len(nodes), len(set(nodes))) for cause, nodes in found.items())
    return tuple(sorted(rows, key=lambda row: (-row[1], row[0])))
