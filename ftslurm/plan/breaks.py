"""When a rate of faults has changed: a scan for the best place to cut time in two, and how often chance cuts as well.

The statistic is the likelihood ratio of two Poisson rates against one, at its largest over all places of the cut
(Hinkley and others; Csorgo and Horvath, *Limit Theorems in Change-Point Analysis*, 1997, section 1). It is compared with
times that are drawn where nothing has changed:

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
_MOST_NODE_DRAWS = 19_999
_WORK = 4_000_000
"""Times looked at in one test, at most: with very many faults fewer draws are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """The rate changed at `at`, in the unit of the times; `before` and `after` count faults a unit."""

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
    found = _one(times, length, Random(seed))
    if found is None:
        return ()
    cut, change = found
    left = breaks(times[: cut.before], cut.at, seed + 1)
    right = breaks([each - cut.at for each in times[cut.before :]], length - cut.at, seed + 2)
    return (*left, change, *(_moved(each, cut.at) for each in right))


def _moved(each: Break, by: float) -> Break:
    return Break(at=each.at + by, before=each.before, after=each.after, p=each.p, draws=each.draws)


def _one(times: Sequence[float], length: float, dice: Random) -> tuple[Cut, Break] | None:
    if len(times) < LEAST_FAULTS or length <= 0.0:
        return None
    gaps = [after - before for before, after in zip((0.0, *times), (*times, length), strict=True)]

    def drawn() -> float:
        dice.shuffle(gaps)
        at, shuffled = 0.0, []
        for gap in gaps[:-1]:
            at += gap
            shuffled.append(min(at, length))
        return best_cut(shuffled, length).gain

    cut = best_cut(times, length)
    p, draws = _p(cut.gain, drawn, min(_MOST_DRAWS, max(199, _WORK // len(times))))
    return (cut, _break(cut, len(times), length, (p, draws))) if p <= ALPHA else None


def break_of_a_node(times: Sequence[float], length: float, looked_at: int, seed: int = SEED) -> Break | None:
    """Return where the rate of one node has changed, if that is more than chance among the nodes that are looked at."""
    if len(times) < LEAST_NODE_FAULTS or length <= 0.0:
        return None
    dice = Random(seed)
    cut = best_cut(times, length)
    count = len(times)
    p, draws = _p(
        cut.gain, lambda: best_cut(sorted(dice.uniform(0.0, length) for _ in range(count)), length).gain,
        _MOST_NODE_DRAWS,
    )  # fmt: skip
    corrected = min(p * looked_at, 1.0)
    return _break(cut, count, length, (corrected, draws)) if corrected <= ALPHA else None


def _break(cut: Cut, count: int, length: float, chance: tuple[float, int]) -> Break:
    p, draws = chance
    after = (count - cut.before) / (length - cut.at)
    return Break(at=cut.at, before=cut.before / cut.at, after=after, p=p, draws=draws)


def _p(value: float, draw: Callable[[], float], most: int) -> tuple[float, int]:
    """How likely chance is as extreme as the value, and after how many draws that was known."""
    extreme = 0
    for number in range(1, most + 1):
        extreme += draw() >= value
        if extreme == _ENOUGH:
            return extreme / number, number
    return (extreme + 1) / (most + 1), most
