"""What the ranks tell of their work, as events for the journal, and the pace of their steps, for the metrics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ftslurm.core.events import Event
from ftslurm.core.progress import Sign
from ftslurm.core.state import Attempt
from ftslurm.core.working import WorkBegun, WorkPaused, WorkRegained

WORTH_S = 0.1
"""A pause that is shorter waits for the next one: the journal is no log of every save."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How many steps were made in how many seconds."""

    steps: int
    seconds: float


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

    def begin(self, attempt: Attempt) -> None:
        """Another attempt trains; or the same one, under another supervisor."""
        self._reached = max(self._reached, self.step)
        self._attempt, self.step = attempt.number, -1
        self._begun, self._behind = attempt.begun, attempt.behind
        self._paused_s, self._stepped = 0.0, None

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
