"""Where a run's time went: every second of it belongs to exactly one category, so that the parts sum to the whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Spent(StrEnum):
    """What a stretch of time was spent on. AWAY, between an end and a resumption, is not counted."""

    STARTING = "starting"
    TRAINING = "training"
    RECOVERY = "recovery"
    LEAVING = "leaving"
    QUEUED = "queued"
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class _Stretch:
    start: float
    end: float


class Ledger:
    """Counts time by category. Moments may come a little late (a silence is noticed after it began): see `switch`."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._now = Spent.AWAY
        self._spent = dict.fromkeys(Spent, 0.0)
        self._trained: list[_Stretch] = []

    @property
    def now(self) -> Spent:
        """The category of the present."""
        return self._now

    def switch(self, t: float, category: Spent) -> None:
        """From `t` on time belongs to `category`; `t` may lie back, but not before the last switch."""
        if self._since is not None:
            t = max(t, self._since)
            self._spent[self._now] += t - self._since
            if self._now is Spent.TRAINING and t > self._since:
                self._trained.append(_Stretch(self._since, t))
        self._since, self._now = t, category

    def lose_after(self, t: float | None) -> float:
        """Return how much training since `t` (None: since ever) has to be done again; it is never counted twice."""
        lost = 0.0
        kept: list[_Stretch] = []
        for each in self._trained:
            end = each.start if t is None else min(max(t, each.start), each.end)
            lost += each.end - end
            if end > each.start:
                kept.append(_Stretch(each.start, end))
        self._trained = kept
        return lost

    def spent(self, until: float) -> dict[Spent, float]:
        """Seconds by category, up to `until`."""
        open_s = max(until - self._since, 0.0) if self._since is not None else 0.0
        return {**self._spent, self._now: self._spent[self._now] + open_s}
