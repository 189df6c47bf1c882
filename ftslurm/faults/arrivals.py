"""When faults come: at random with a mean (Poisson), in clusters (Weibull), or as they really came (replay of a trace).

Pure: a generator of random numbers is an argument, so that a seed gives the same campaign anywhere. A Weibull shape
below 1 means that a fault makes the next one more likely to come soon: 0.62 is what a fleet of 400 nodes has shown in
348 days (https://github.com/stepfun-ai/InfiniteHBD-Trace), 1 is Poisson again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

MOST = 100_000
"""No campaign has more arrivals: a mean of a microsecond is a mistake of somebody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weibull:
    """Independent gaps with a mean of `mtbf_s`; `shape` 1 is a Poisson process."""

    mtbf_s: float
    shape: float = 1.0

    def gaps(self, dice: Random) -> Iterator[float]:
        """One gap after the other, without an end."""
        scale = self.mtbf_s / math.gamma(1 + 1 / self.shape)
        while True:
            # 1 - random() is never 0, whose logarithm there is not.
            yield scale * (-math.log(1 - dice.random())) ** (1 / self.shape)


@dataclass(frozen=True, slots=True)
class Replay:
    """The moments of a trace, in seconds since its beginning, in order; `faults` names some of them."""

    times: tuple[float, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One arrival: when (seconds since the leg's beginning), which fault, and where.

    `pick` lies in [0, 1) and chooses among what is there: of n candidates in order the one with number floor(n * pick).
    """

    number: int
    at: float
    fault: str
    pick: float

    def choose(self, candidates: Iterable[str]) -> str:
        """The candidate that this draw means, whatever order they come in; there is at least one."""
        ordered = sorted(candidates)
        return ordered[int(len(ordered) * self.pick)]


def draws(source: Weibull | Replay, weights: Mapping[str, float], dice: Random, until_s: float) -> tuple[Draw, ...]:
    """The arrivals of one leg, before `until_s`.

    Args:
        source: when they come.
        weights: how often each fault comes, relative to the others; at least one is more than 0.
        dice: where all randomness comes from.
        until_s: the length of the leg.

    Raises:
        ValueError: there would be more than MOST.
    """
    names = sorted(weights)
    shares = [weights[name] for name in names]
    found: list[Draw] = []
    for at, named in _moments(source, dice):
        if at >= until_s:
            break
        if len(found) == MOST:
            raise ValueError(f"more than {MOST} faults in {until_s:g} s")
        fault = named or dice.choices(names, shares)[0]
        found.append(Draw(number=len(found), at=round(at, 3), fault=fault, pick=round(dice.random(), 9) % 1.0))
    return tuple(found)


def _moments(source: Weibull | Replay, dice: Random) -> Iterator[tuple[float, str]]:
    if isinstance(source, Replay):
        for index, at in enumerate(source.times):
            yield at, source.faults[index] if source.faults else ""
        return
    at = 0.0
    for gap in source.gaps(dice):
        at += gap
        yield at, ""


def read_trace(text: str, speed: float) -> Replay:
    """A trace from its text: a line for each fault, seconds since the beginning and, if known, the fault's name.

    `#` begins a remark. `speed` 3600 turns hours into seconds.

    Raises:
        ValueError: a line is not of that form; the message names it.
    """
    found: list[tuple[float, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            at = float(words[0])
        except ValueError:
            at = math.nan
        if not 0 <= at < math.inf or len(words) > 2:
            raise ValueError(f"line {number}: expected seconds and perhaps the name of a fault, got {line[:60]!r}")
        found.append((at / speed, words[1] if len(words) == 2 else ""))
    found.sort(key=lambda each: each[0])
    return Replay(tuple(at for at, _ in found), tuple(name for _, name in found))
