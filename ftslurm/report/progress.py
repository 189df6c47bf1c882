"""How far the training was when, and how far it would have been if nothing had ever stopped it.

Steps are known from the nodes' samples, where the program shows them, and from its checkpoints. The ideal is a straight
line from the first release of ranks, with the rate that the training had: the median over all pairs of points that
follow one another within an attempt, weighted by the time between them. It knows no queue, no saving and no failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.core.actions import CommitLocal, ReleaseRanks
from ftslurm.insight.facts import actions

if TYPE_CHECKING:
    from ftslurm.journal import Entry
    from ftslurm.report.samples import Samples

MOST_POINTS = 4000
"""About how many of the samples are told; what the journal tells is told whole."""


@dataclass(frozen=True, slots=True)
class Point:
    """The step that an attempt had reached at a moment; `saved`: it is that of a checkpoint."""

    t: float
    attempt: int
    step: int
    saved: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """The points in order of time; `rate` in steps a second, and since when, None where nobody knows."""

    points: Sequence[Point] = ()
    rate: float | None = None
    since: float | None = None

    def ideal(self, t: float) -> float | None:
        """The step that would have been reached at `t`."""
        return None if self.rate is None or self.since is None else self.rate * max(t - self.since, 0.0)


def progress(entries: Iterable[Entry], samples: Samples) -> Progress:
    """Return how far the training was when."""
    points, since = _told(entries)
    points += _sampled(samples)
    points.sort(key=lambda point: (point.t, point.attempt, point.step))
    return Progress(points, _rate(points), since)


def _told(entries: Iterable[Entry]) -> tuple[list[Point], float | None]:
    """What the journal tells: where attempts began, and what they saved."""
    points: list[Point] = []
    since = None
    for entry in entries:
        for release in actions(entry, ReleaseRanks):
            if not release.again:
                since = entry.t if since is None else since
                points.append(Point(entry.t, release.attempt, release.step))
        for commit in actions(entry, CommitLocal):
            attempt = int(commit.generation.rpartition("-")[2])
            points.append(Point(entry.t, attempt, commit.step, saved=True))
    return points, since


def _sampled(samples: Samples) -> list[Point]:
    """What the samples tell: the step of the rank that is furthest back, as each node sees it; of many, some."""
    every = samples.count // MOST_POINTS + 1
    return [
        Point(sample.t, sample.attempt, min(sample.steps.values()))
        for each in samples.by_node.values()
        for sample in (*each[::every], *each[-1:])
        if sample.attempt is not None and sample.steps
    ]


def _rate(points: Sequence[Point]) -> float | None:
    """Return the weighted median of the rates between points of one attempt that are not those of one moment."""
    found: list[tuple[float, float]] = []
    last: dict[int, Point] = {}
    for point in points:
        before = last.get(point.attempt)
        if before is None or (point.t - before.t >= 1.0 and point.step > before.step):
            last[point.attempt] = point
            if before is not None:
                found.append(((point.step - before.step) / (point.t - before.t), point.t - before.t))
    found.sort()
    half = sum(length for _, length in found) / 2
    for rate, length in found:
        half -= length
        if half <= 0:
            return rate
    return None
