"""How soon nodes fail again after their repair, beside what chance would give were all nodes alike.

Of N faults of independent nodes at rate r, a share 1 - exp(-r d) would be followed by another one of the same node
within d days. The clock starts at the repair; where nobody wrote down when a node was repaired, at the fault itself,
which makes a share too small, never too large. Faults whose d days are not over yet are left out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ftslurm.core.lemons import DAY_S
from ftslurm.plan.past import Fault, Past, by_node

DAYS = (1.0, 7.0, 28.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Of `faults`, `again` were followed by another one of the node within `days`.

    `low` and `high` are the 95 % interval of the share, `chance` is the share that chance would give (None: no rate is
    known), `p` how likely chance is to give so many.
    """

    days: float
    faults: int
    again: int
    low: float
    high: float
    chance: float | None
    p: float | None

    @property
    def share(self) -> float:
        """The part that was followed."""
        return self.again / self.faults


def again(past: Past) -> tuple[Again, ...]:
    """Return how many faults were followed by another, for each number of days in which some could be."""
    found = []
    known = by_node(past.faults)
    for days in DAYS:
        asked = [each for each in past.faults if _repaired(each) + days * DAY_S <= past.until]
        if not asked:
            continue
        count = sum(followed(each, known[each.node], days) for each in asked)
        chance = None if past.rate is None else -math.expm1(-past.rate * days)
        low, high = wilson(count, len(asked))
        p = None if chance is None else binomial_tail(count, len(asked), chance)
        found.append(Again(days=days, faults=len(asked), again=count, low=low, high=high, chance=chance, p=p))
    return tuple(found)


def offences(known: Mapping[str, Sequence[Fault]], days: float) -> dict[str, int]:
    """How many faults of each node were followed by another within so many days, where any were."""
    counts = {node: sum(followed(each, faults, days) for each in faults) for node, faults in known.items()}
    return {node: count for node, count in counts.items() if count}


def followed(fault: Fault, of_node: Sequence[Fault], days: float) -> bool:
    """Whether the node failed again within so many days of a fault's repair."""
    repaired = _repaired(fault)
    index = bisect_left(of_node, repaired, key=lambda each: each.at)
    while index < len(of_node) and of_node[index].at <= fault.at:
        index += 1
    return index < len(of_node) and of_node[index].at - repaired <= days * DAY_S


def _repaired(fault: Fault) -> float:
    return fault.at if fault.over is None else fault.over


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (E. B. Wilson, *JASA* 22, 1927); of nothing it is all of 0 to 1."""
    if of == 0:
        return 0.0, 1.0
    z = 1.96
    share, scale = count / of, 1.0 + z * z / of
    middle = (share + z * z / (2 * of)) / scale
    half = z / scale * math.sqrt(share * (1.0 - share) / of + z * z / (4.0 * of * of))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def binomial_tail(count: int, of: int, chance: float) -> float:
    """The probability of at least `count` successes of `of`."""
    if count <= 0:
        return 1.0
    if chance <= 0.0 or chance >= 1.0:
        return float(chance >= 1.0)
    odds, whole = math.log(chance), math.lgamma(of + 1)
    rest = math.log1p(-chance)
    return min(
        math.fsum(
            math.exp(
                whole - math.lgamma(number + 1) - math.lgamma(of - number + 1) + number * odds + (of - number) * rest
            )
            for number in range(count, of + 1)
        ),
        1.0,
    )
