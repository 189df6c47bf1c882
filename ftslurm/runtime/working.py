"""What the ranks tell of their work, as events for the journal, and the pace of their steps, for the metrics."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from ftslurm.core.events import Event
from ftslurm.core.progress import WARM_UP, Sign
from ftslurm.core.state import Attempt
from ftslurm.core.working import WorkBegun, WorkPaced, WorkPaused, WorkRegained

WORTH_S = 0.1
"""A pause that is shorter waits for the next one: the journal is no log of every save."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How many steps were made in how many seconds."""

    steps: int
    seconds: float


class StepGauge:
    """How long a step of one attempt takes: the median over a time that doubles, so that it is seldom told.

    A median, because some steps also wait for a save or for storage. The first ones teach nothing: they compile.
    """

    FIRST_S, LAST_S = 20.0, 3600.0
    STEPS = 10
    KEPT = 2000

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._window_s = self.FIRST_S
        self._first: int | None = None
        self._seen: tuple[int, float] | None = None
        self._since, self._steps = 0.0, 0
        self._took_s: deque[float] = deque(maxlen=self.KEPT)

    def take(self, step: int, at: float) -> list[WorkPaced]:
        """The ranks were at this step at this time; the pace, once enough is known for the next one."""
        if self._first is None:
            self._first = step
        if step < self._first + WARM_UP or (self._seen is not None and step <= self._seen[0]):
            return []
        if self._seen is None:
            self._since = at
        else:
            made, took_s = step - self._seen[0], at - self._seen[1]
            self._took_s.append(took_s / made)
            self._steps += made
        self._seen = (step, at)
        if self._steps < self.STEPS or at - self._since < self._window_s:
            return []
        told = WorkPaced(attempt=self._attempt, steps=self._steps, step_s=round(median(self._took_s), 6))
        self._window_s = min(2 * self._window_s, self.LAST_S)
        self._since, self._steps = at, 0
        self._took_s.clear()
        return [told]


class WorkWatch:
    """Follows the attempts of a run. Not for several threads at once: `ProgressWatch` holds its lock around it."""

    def __init__(self) -> None:
        self.step = -1
        """The newest step that a rank has told."""
        self._reached = -1
        self._attempt = -1
        self._begun = self._behind = False
        self._paused_s = self._paused_at = 0.0
        self._stepped: tuple[int, float] | None = None
        self._paces: list[Pace] = []
        self._gauge = StepGauge(-1)

    def begin(self, attempt: Attempt) -> None:
        """Another attempt trains; or the same one, under another supervisor."""
        self._reached = max(self._reached, self.step)
        self._attempt, self.step = attempt.number, -1
        self._begun, self._behind = attempt.begun, attempt.behind
        self._paused_s, self._stepped = 0.0, None
        self._gauge = StepGauge(attempt.number)

    def look(self, signs: Iterable[Sign], saved_step: int, now: float) -> list[Event]:
        """Take what is known of the ranks now; `saved_step` is that of the newest checkpoint of the run."""
        shown = [sign for sign in signs if sign.beats > 0]
        if not shown:
            return []
        step = max(sign.step for sign in shown)
        found: list[Event] = []
        if not self._begun:
            self._begun = True
            reached = max(self._reached, saved_step)
            self._behind = reached > step >= 0
            until, ago_s = reached if self._behind else -1, round(min(sign.age_s for sign in shown), 3)
            found.append(WorkBegun(attempt=self._attempt, step=step, until=until, ago_s=ago_s))
        elif self._behind and step > max(self._reached, saved_step):
            self._behind = False
            found.append(WorkRegained(attempt=self._attempt, step=step))
        self._pace(step, now)
        found += self._gauge.take(step, now - min(sign.age_s for sign in shown if sign.step == step))
        self.step = max(self.step, step)
        return found

    def _pace(self, step: int, now: float) -> None:
        if self._stepped is not None and step > self._stepped[0]:
            before, since = self._stepped
            self._paces.append(Pace(step - before, now - since))
        if self._stepped is None or step > self._stepped[0]:
            self._stepped = (step, now)

    def paces(self) -> list[Pace]:
        """What was made since the last time that this was asked."""
        found, self._paces = self._paces, []
        return found

    def pause(self, seconds: float, now: float) -> None:
        """The ranks have just stood still for so long to save."""
        self._paused_s, self._paused_at = self._paused_s + seconds, now

    def pauses(self, now: float) -> list[Event]:
        """Tell of the pauses since the last time, once they are worth it."""
        if not self._begun or self._paused_s < WORTH_S:
            return []
        took_s, self._paused_s = self._paused_s, 0.0
        ago_s = now - self._paused_at
        return [WorkPaused(attempt=self._attempt, took_s=round(took_s, 3), ago_s=round(ago_s, 3))]
