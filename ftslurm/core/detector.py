"""Failure detection by the silence of heartbeats: accrual suspicion, after Hayashibara et al., SRDS 2004.

A history is the moments of the intervals at which beats of one node arrived (Welford's recurrence, bounded weight). The
suspicion phi is -log10 of the probability that a live node would be silent for this long, by the exact tail of the
normal distribution. With N nodes and a beat every eta seconds there are N/eta chances a second of a false suspicion, so
that at most one in T seconds is one at phi = log10(N T / eta). The silence from which a node is suspect is where phi
reaches that threshold, by the exact inverse of the tail. Phi ranks suspicion; it never condemns: `core.verdict` wants
witnesses for that.

An observer can be the one that is ill (Lifeguard, Dadgar et al., 2017). One that stood still, or misses many at once,
is worse in `Health`, and more patient by it.

Rules: time is an argument, and monotonic; the interval that spans an outage does not feed the statistics; what is
learnt is bounded by a fixed floor (`Settings.suspect_after_s`) and a fixed ceiling, so that learning can never switch
detection off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

_WEIGHT = 200
_TAIL_FROM = 25.0
_CEILING = 3.0
_WORST = 3
_MOST_DEVIATIONS = 1e6
DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How patient the detector is.

    Attributes:
        interval_s: time between two beats. Too low: load on every node. Too high: everything is noticed late.
        suspect_after_s: silence that makes a node suspect; the floor of the learnt limit.
        nodes: how many nodes are watched.
        false_suspicions_s: at most one false suspicion of any node in this time, where beats come as before.
    """

    interval_s: float = 0.5
    suspect_after_s: float = 3.0
    nodes: int = 1
    false_suspicions_s: float = 30 * DAY_S

    @property
    def threshold(self) -> float:
        """The phi from which a node is suspect."""
        return max(math.log10(max(self.nodes, 1)) + math.log10(self.false_suspicions_s / self.interval_s), 1.0)

    @property
    def deviations(self) -> float:
        """How many standard deviations from the mean that is."""
        return deviations_at(self.threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How far the observer trusts its own ears: 0 is well; each point makes it wait one floor longer."""

    score: int = 0

    @property
    def patience(self) -> float:
        """What the limits are multiplied by."""
        return 1.0 + self.score

    def worse(self) -> Health:
        """Return the health after a sign that the observer itself is ill."""
        return Health(score=min(self.score + 1, _WORST))

    def better(self) -> Health:
        """Return the health after a quiet while."""
        return Health(score=max(self.score - 1, 0))


WELL = Health()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What is known of one node's beats; `last` is the monotonic time of the newest."""

    last: float
    count: int = 0
    mean_s: float = 0.0
    spread: float = 0.0

    @property
    def deviation_s(self) -> float:
        """The standard deviation of the intervals."""
        return math.sqrt(self.spread / self.count) if self.count > 1 else 0.0


def observe(history: History | None, now: float, settings: Settings) -> History:
    """Return the history after a beat at `now`; a beat after an outage restarts the clock and teaches nothing."""
    if history is None:
        return History(last=now)
    interval = now - history.last
    if interval < 0 or (interval > settings.suspect_after_s and interval > limit_s(history, settings)):
        return replace(history, last=now)
    count = min(history.count + 1, _WEIGHT)
    kept = history.spread * (count - 1) / count if history.count >= _WEIGHT else history.spread
    mean = history.mean_s + (interval - history.mean_s) / count
    spread = kept + (interval - history.mean_s) * (interval - mean)
    return History(last=now, count=count, mean_s=mean, spread=max(spread, 0.0))


def limit_s(history: History, settings: Settings) -> float:
    """Return the silence, in seconds, from which the node is suspect."""
    mean, deviation = _expected(history, settings)
    learnt = mean + settings.deviations * deviation
    return min(max(settings.suspect_after_s, learnt), _CEILING * settings.suspect_after_s)


def suspicion(history: History, now: float, settings: Settings) -> float:
    """Return phi: 1 means that one live node in ten would be silent for this long, 2 one in a hundred."""
    mean, deviation = _expected(history, settings)
    return _phi((now - history.last - mean) / deviation)


def suspects(
    histories: Mapping[str, History], now: float, settings: Settings, health: Health = WELL
) -> dict[str, float]:
    """Return the silent nodes with the seconds since their last beat."""
    floor = settings.suspect_after_s * health.patience
    return {
        node: now - history.last
        for node, history in histories.items()
        if now - history.last > floor and now - history.last > health.patience * limit_s(history, settings)
    }


def late(histories: Mapping[str, History], now: float, settings: Settings) -> frozenset[str]:
    """Return the nodes that are silent for half of the floor: who falls silent at the same time is seen at once."""
    half = settings.suspect_after_s / 2
    return frozenset(node for node, history in histories.items() if now - history.last > half)


def misses_many(silent: int, watched: int) -> bool:
    """Tell whether most of the others, and at least two, are silent at once: perhaps it is the observer's fault."""
    return silent >= 2 and 2 * silent > watched


@lru_cache(maxsize=64)
def deviations_at(phi: float) -> float:
    """Return where the tail of the normal distribution has this phi: the inverse of `_phi`, by bisection."""
    low, high = 0.0, min(math.sqrt(max(phi, 0.0) * 2 * math.log(10)) + 1.0, _MOST_DEVIATIONS)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _phi(middle) < phi else (low, middle)
    return high


def _expected(history: History, settings: Settings) -> tuple[float, float]:
    """Return mean and deviation of a beat's interval: never better than the plan says."""
    return max(history.mean_s, settings.interval_s), max(history.deviation_s, settings.interval_s / 4)


def _phi(deviations: float) -> float:
    """Return -log10 of the normal distribution's upper tail: exact where erfc is, by its asymptote beyond."""
    if deviations < _TAIL_FROM:
        return max(-math.log10(0.5 * math.erfc(deviations / math.sqrt(2))), 0.0)
    squared = deviations * deviations
    return (squared / 2 + math.log(deviations * math.sqrt(2 * math.pi)) + 1 / squared) / math.log(10)
