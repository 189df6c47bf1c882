"""Failure detection by the silence of heartbeats: accrual suspicion, after Hayashibara et al., SRDS 2004.

A history is the moments of the intervals at which beats of one node arrived (Welford's recurrence, bounded weight). The
suspicion phi is -log10 of the probability that a live node would be silent for this long, by the exact tail of the
normal distribution. Phi ranks suspicion; it never condemns: `core.diagnosis` wants witnesses for that.

Rules: time is an argument; the interval that spans an outage does not feed the statistics; what is learnt is bounded by
a fixed floor (`Settings.suspect_after_s`) and a fixed ceiling, so that learning can never switch detection off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

_WEIGHT = 200
_TAIL_FROM = 25.0
_CEILING = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How patient the detector is.

    Attributes:
        interval_s: time between two beats. Too low: load on every node. Too high: everything is noticed late.
        suspect_after_s: silence that makes a node suspect; the floor of the learnt limit.
        deviations: how many standard deviations of the beats' jitter the limit keeps away from their mean.
    """

    interval_s: float = 0.5
    suspect_after_s: float = 3.0
    deviations: float = 8.0


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
    if interval < 0 or interval > limit_s(history, settings):
        return replace(history, last=now)
    count = min(history.count + 1, _WEIGHT)
    kept = history.spread * (count - 1) / count if history.count >= _WEIGHT else history.spread
    mean = history.mean_s + (interval - history.mean_s) / count
    spread = kept + (interval - history.mean_s) * (interval - mean)
    return History(last=now, count=count, mean_s=mean, spread=max(spread, 0.0))


def limit_s(history: History, settings: Settings) -> float:
    """Return the silence, in seconds, from which the node is suspect."""
    learnt = history.mean_s + settings.deviations * history.deviation_s
    return min(max(settings.suspect_after_s, learnt), _CEILING * settings.suspect_after_s)


def suspicion(history: History, now: float, settings: Settings) -> float:
    """Return phi: 1 means that one live node in ten would be silent for this long, 2 one in a hundred."""
    mean = max(history.mean_s, settings.interval_s)
    deviation = max(history.deviation_s, settings.interval_s / 4)
    return _phi((now - history.last - mean) / deviation)


def suspects(histories: Mapping[str, History], now: float, settings: Settings) -> dict[str, float]:
    """Return the silent nodes with the seconds since their last beat."""
    return {
        node: now - history.last
        for node, history in histories.items()
        if now - history.last > limit_s(history, settings)
    }


def _phi(deviations: float) -> float:
    """Return -log10 of the normal distribution's upper tail: exact where erfc is, by its asymptote beyond."""
    if deviations < _TAIL_FROM:
        return max(-math.log10(0.5 * math.erfc(deviations / math.sqrt(2))), 0.0)
    squared = deviations * deviations
    return (squared / 2 + math.log(deviations * math.sqrt(2 * math.pi)) + 1 / squared) / math.log(10)
