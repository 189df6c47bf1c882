"""What can be seen of a program that is alive: it stands still, is slow on one rank, or its loss is no number.

The second part of the vocabulary of `core.events`. Beats are no events: the supervisor's watch digests them with the
rules of `core.progress`, and only what it concludes is an event.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftslurm.core.events import Event

RUNNING, STOPPED, BLOCKED, GONE = "running", "stopped", "blocked", "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressSignal(Event):
    """By what the progress of an attempt is known: beat, pattern, files. Empty: by nothing, a hang is not noticed."""

    attempt: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksStalled(Event):
    """Ranks have not made progress for longer than they ever need.

    Attributes:
        ranks: the first of them; `count` is how many they are.
        behind: ranks that had done fewer steps than the others when it happened, if they are the minority.
        phase: what they were doing, by their own word: init, step, save, load, evaluation.
        early: the limit of a hang is not over, but a collective's own time-out is near, which ends the ranks unseen.
    """

    attempt: int
    ranks: tuple[int, ...]
    count: int
    phase: str
    silent_s: float
    limit_s: float
    step: int = -1
    behind: tuple[int, ...] = ()
    early: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksResumed(Event):
    """Ranks whose stall was looked into early have made progress since."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Ranks that stand at the same place; `frames` begin with the innermost.

    `state` is running, stopped (by a signal or a debugger), blocked (in the kernel, on storage as a rule) or gone.
    `more` ranks stand there besides those that are named.
    """

    state: str
    frames: tuple[str, ...]
    ranks: tuple[int, ...]
    more: int = 0

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self.ranks) + self.more


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopsyTaken(Event):
    """What the ranks of a stalled attempt were doing. `resumed`: they have made progress meanwhile."""

    attempt: int
    stacks: tuple[Stack, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerSeen(Event):
    """A rank has been slower than the others for several windows in a row. `score` is its modified z-score."""

    attempt: int
    rank: int
    node: str
    own_s: float
    median_s: float
    score: float
    windows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LossAlarm(Event):
    """A loss that is no number (kind nan), or far from those before it (kind spike); `value` is its text."""

    attempt: int
    kind: str
    rank: int
    step: int
    value: str
    median: float = 0.0
    score: float = 0.0
