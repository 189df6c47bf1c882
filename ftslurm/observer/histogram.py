"""Counts of durations by size, as Prometheus wants them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from math import inf

SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""What detection, recovery and checkpoints take."""
STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""What a training step takes."""


class Histogram:
    """Durations, in seconds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        """Count something that took so long, or several things that took so long each."""
        self._counts[bisect_left(self._bounds, seconds)] += count
        self.sum += seconds * count

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield (upper bound, how many were not more than that)."""
        total = 0
        for bound, count in zip((*self._bounds, inf), self._counts, strict=True):
            total += count
            yield ("+Inf" if bound == inf else str(bound)), total
