"""When a rate of faults has changed: a scan for the best place to cut time in two, and how often chance cuts as well.

The statistic is the likelihood ratio of two Poisson rates against one, at its largest over all places of the cut
(Akman and Raftery, *Annals of Statistics* 14, 1986). It is compared with times that are drawn where nothing changes:

- of the fleet, by shuffling the gaps between its faults. That keeps how faults cluster for hours, which alone is no
  change of the rate, and is exact for Poisson, whose gaps are exchangeable;
- of a node, whose gaps are too few to be shuffled, by as many times drawn evenly: Poisson. There p is multiplied by the
  number of nodes that were looked at (Bonferroni).

A p is that of Besag and Clifford (*Biometrika* 78, 1991): drawing ends when enough draws were as extreme as the data.
The dice are seeded: the same data give the same answer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random

ALPHA = 0.05
"""How often a fleet whose rate never changed is said to have changed; likewise over all nodes together."""
LEAST_FAULTS = 8
LEAST_NODE_FAULTS = 4
EDGE = 0.05
"""No cut within this share of the time from either end: a rate over a moment is none."""
SEED = 1
_ENOUGH = 20
_MOST_DRAWS = 1999
_MOST_NODE_DRAWS = 9_999
_LEAST_DRAWS = 199
_WORK = 4_000_000
"""Times looked at in one test, at most: with very many faults fewer draws are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """The rate changed at `at`, in the unit of the times; `before` and `after` are the rates up to the next changes."""

    at: float
    before: float
    after: float
    p: float
    draws: int


@dataclass(frozen=True, slots=True)
class Cut:
    """The best place to cut: where, how many faults lie before it, and twice the gain in log-likelihood."""

    at: float
    before: int
    gain: float


def best_cut(times: Sequence[float], length: float) -> Cut:
    """Return where two rates explain the times best; sorted times in [0, length]."""
    count = len(times)
    entropy = [0.0, *(number * math.log(number) for number in range(1, count + 1))]
    level = entropy[count] - count * math.log(length)
    low, high = EDGE * length, (1.0 - EDGE) * length
    best = Cut(0.0, 0, 0.0)
    for index in range(bisect_left(times, low), count):
        at = times[index]
        if at > high:
            break
        log_before, log_after = math.log(at), math.log(length - at)
        for before in (index, index + 1):  # just before this fault, where the rate rises; or just behind it
            after = count - before
            gain = 2.0 * (entropy[before] + entropy[after] - before * log_before - after * log_after - level)
            if gain > best.gain:
                best = Cut(at, before, gain)
    return best


def breaks(times: Sequence[float], length: float, seed: int = SEED) -> tuple[Break, ...]:
    """Return every change of a fleet's rate, in order: each part is cut again until it has none.

    Args:
        times: when faults were, sorted, in [0, length]; on a clock that stands still while nothing is watched.
        length: how long it was watched.
        seed: of the dice.
    """
    cuts = sorted(_cuts(times, length, Random(seed)), key=lambda each: each[0])  # noqa: S311 - dice
    ends = [0.0, *(at for at, _, _ in cuts), length]
    counts = [0, *(bisect_left(times, at) for at in ends[1:-1]), len(times)]
    rates = [
        (counts[part + 1] - counts[part]) / (ends[part + 1] - ends[part]) if cuts else 0.0
        for part in range(len(cuts) + 1)
    ]
    return tuple(
        Break(at=at, before=rates[part], after=rates[part + 1], p=p, draws=draws)
        for part, (at, p, draws) in enumerate(cuts)
    )


def _cuts(times: Sequence[float], length: float, dice: Random) -> list[tuple[float, float, int]]:
    """Where time is cut, with the p of each cut and the draws behind it."""
    if len(times) < LEAST_FAULTS or length <= 0.0:
        return []
    gaps = [after - before for before, after in pairwise((0.0, *times, length))]

    def drawn() -> float:
        dice.shuffle(gaps)
        return best_cut([min(at, length) for at in accumulate(gaps[:-1])], length).gain

    cut = best_cut(times, length)
    p, draws = _p(cut.gain, drawn, min(_MOST_DRAWS, max(_LEAST_DRAWS, _WORK // len(times))))
    if p > ALPHA:
        return []
    left = _cuts(times[: cut.before], cut.at, dice)
    right = _cuts([each - cut.at for each in times[cut.before :]], length - cut.at, dice)
    return [(cut.at, p, draws), *left, *((cut.at + at, of, number) for at, of, number in right)]


def break_of_a_node(times: Sequence[float], length: float, looked_at: int, seed: int = SEED) -> Break | None:
    """Return where the rate of one node has changed, if that is more than chance among the nodes that are looked at."""
    if len(times) < LEAST_NODE_FAULTS or length <= 0.0:
        return None
    dice = Random(seed)  # noqa: S311 - dice
    cut = best_cut(times, length)
    count = len(times)
    p, draws = _p(
        cut.gain, lambda: best_cut(sorted(dice.uniform(0.0, length) for _ in range(count)), length).gain,
        _MOST_NODE_DRAWS,
    )  # fmt: skip
    corrected = min(p * looked_at, 1.0)
    if corrected > ALPHA:
        return None
    after = (count - cut.before) / (length - cut.at)
    return Break(at=cut.at, before=cut.before / cut.at, after=after, p=corrected, draws=draws)


def _p(value: float, draw: Callable[[], float], most: int) -> tuple[float, int]:
    """How likely chance is as extreme as the value, and after how many draws that was known."""
    extreme = 0
    for number in range(1, most + 1):
        extreme += draw() >= value
        if extreme == _ENOUGH:
            return extreme / number, number
    return (extreme + 1) / (most + 1), most
