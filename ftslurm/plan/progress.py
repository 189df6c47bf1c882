"""How far a simulated training has come, and which of its checkpoints can be read after what failed.

A save is on the nodes' own disks (scratch) as soon as training goes on, then a copy of it on other nodes (partner),
then on shared storage (durable). Copies to a level are made one after the other, always of the newest save. A failure
that leaves all nodes needs the first level only, a lost node the second, and a pair of nodes that kept each other's
copies the third; so does a run that has left its nodes. Copies lie in a ring: a node keeps those of the one before it.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import NamedTuple

from ftslurm.plan.outcome import Loss, Outcome
from ftslurm.plan.terms import Copies

MOST_BUSY = 0.95


class Pace(NamedTuple):
    """How fast copies come to a level: from save to save, for one copy, and at least from one copy to the next."""

    period_s: float
    copy_s: float
    every_s: float = 0.0


def newest_copied(seconds: float, pace: Pace, *, has_first: bool) -> int | None:
    """Return the number of the newest save whose copy is finished after so long; None: not even that of the first.

    Args:
        seconds: how long the training has gone on; save number n is finished after n periods, and 0 is where it began.
        pace: of saves and copies.
        has_first: number 0 need not be copied any more.
    """
    if not has_first and seconds < pace.copy_s:
        return None
    spacing = max(pace.copy_s, pace.every_s)
    begun = pace.period_s if has_first else max(spacing, pace.period_s)
    if seconds < begun + pace.copy_s:
        return 0
    if spacing > pace.period_s:
        begun += (seconds - pace.copy_s - begun) // spacing * spacing
    else:
        begun = seconds - pace.copy_s
    return int(begun // pace.period_s)


class Progress:
    """Positions are seconds of work of the full world since the beginning."""

    def __init__(self, copies: Copies, chances: Random, outcome: Outcome) -> None:
        """What is spent and lost is added to the outcome."""
        self._copies, self._chances, self._outcome = copies, chances, outcome
        self._at = self._furthest = 0.0
        self._scratch = self._partner = self._shared = 0.0
        self._lost = 0
        self._pair_lost = self._left = False
        self._save_work = 0.0
        self.saved = False
        """Whether the present attempt has finished a checkpoint."""

    def train(self, seconds: float, speed: float) -> None:
        """Train, and save, for so long, at a share of the full world's speed."""
        copies, spent = self._copies, self._outcome.spent_s
        saves, rest = (0.0, seconds) if copies.interval_s == inf else divmod(seconds, copies.period_s)
        trained_s = (saves * copies.interval_s if saves else 0.0) + min(rest, copies.interval_s)
        work = trained_s * speed
        again = min(max(self._furthest - self._at, 0.0), work)
        spent[Loss.REDONE] += again / speed
        spent[Loss.PRODUCTIVE] += trained_s - again / speed
        spent[Loss.SAVING] += seconds - trained_s
        self._outcome.work_s += work - again
        self._outcome.saves += int(saves)
        self._save_work = copies.interval_s * speed
        self._keep(seconds, int(saves))
        self._at += work
        self._furthest = max(self._furthest, self._at)

    def _keep(self, seconds: float, saves: int) -> None:
        """Note which saves have come to which level."""
        base, copies = self._at, self._copies
        if saves:
            self.saved = True
            self._scratch = base + saves * self._save_work
        if copies.partner_s is not None:
            pace = Pace(copies.period_s, copies.partner_s)
            self._partner = self._copied(self._partner, newest_copied(seconds, pace, has_first=self._partner >= base))
        pace = Pace(copies.period_s, self._shared_s(), copies.durable_every_s)
        self._shared = self._copied(self._shared, newest_copied(seconds, pace, has_first=self._shared >= base))

    def _copied(self, before: float, number: int | None) -> float:
        return before if number is None else self._at + (number * self._save_work if number else 0.0)

    def _shared_s(self) -> float:
        """A copy to shared storage, or back from it, now: what others use of it differs from time to time."""
        copies = self._copies
        if not copies.contention:
            return copies.shared_s
        return copies.shared_s / (1 - min(2 * copies.contention * self._chances.random(), MOST_BUSY))

    def lose_node(self, nodes: int) -> None:
        """One of so many nodes is gone, with its own save and the copy that it kept of another."""
        if self._lost and self._copies.partner_s is not None:
            self._pair_lost |= self._chances.random() * max(nodes - 1, 1) < 2 * self._lost
        self._lost += 1

    def make_durable(self) -> float:
        """Bring the newest that can be read to shared storage, for nodes are given back. Return how long it takes."""
        newest, _ = self._readable()
        took_s = self._shared_s() if newest > self._shared else 0.0
        self._shared, self._left = newest, True
        return took_s

    def restore(self) -> float:
        """Go back to the newest checkpoint that can be read. Return how long reading it takes."""
        newest, took_s = self._readable()
        if self._copies.damaged and self._chances.random() < self._copies.damaged:
            newest, took_s = max(newest - self._save_work, 0.0), 2 * took_s
        self._outcome.lost_work_s += self._at - newest
        self._at = self._scratch = newest
        self._partner, self._shared = min(self._partner, newest), min(self._shared, newest)
        self.saved = False
        return took_s

    def _readable(self) -> tuple[float, float]:
        copies = self._copies
        if not self._lost and not self._left:
            return self._scratch, copies.scratch_s
        if copies.partner_s is not None and not self._pair_lost and not self._left:
            return self._partner, copies.partner_s
        return self._shared, self._shared_s()

    def begin(self) -> None:
        """All nodes of a new attempt have the checkpoint."""
        self._lost = 0
        self._pair_lost = self._left = False
