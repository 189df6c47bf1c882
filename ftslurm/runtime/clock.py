"""How far this node's clock is off the supervisor's, from the beats and their echoes on the control channel.

The echo carries the supervisor's wall clock. Half of the round trip is unknown, so of the last samples the one with the
shortest trip counts (as in NTP's clock filter, RFC 5905 section 10), and half of it is the error.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftslurm.core.health import Reading

KEPT = 20


@dataclass(frozen=True, slots=True)
class Offset:
    """Seconds by which the node's clock is ahead of the supervisor's, and how wrong that may be."""

    seconds: float
    error_s: float


@dataclass
class ClockWatch:
    """Lives in the agent's event loop; `offset` may be asked from any thread."""

    _beat: tuple[object, float, float] = (None, 0.0, 0.0)
    _samples: deque[Offset] = field(default_factory=lambda: deque(maxlen=KEPT))

    def sent(self, number: object) -> None:
        """Note that a beat is being sent."""
        self._beat = (number, time.monotonic(), time.time())

    def echoed(self, message: Mapping[str, Any]) -> None:
        """Take a sample from an echo of the newest beat; one of an older beat, or without a clock, says nothing."""
        number, mono, wall = self._beat
        theirs = message.get("wall")
        if message.get("n") != number or not isinstance(theirs, float):
            return
        half = (time.monotonic() - mono) / 2
        self._samples.append(Offset(wall + half - theirs, half))

    def offset(self) -> Offset | None:
        """Return the best of the last samples; None before the first."""
        return min(list(self._samples), key=lambda sample: sample.error_s, default=None)

    def readings(self) -> list[Reading]:
        """Return the part of the offset that the round trip cannot explain."""
        best = self.offset()
        if best is None:
            return []
        least = max(abs(best.seconds) - best.error_s, 0.0)
        detail = f"{best.seconds:+.3f} s, give or take {best.error_s:.3f} s"
        return [Reading(metric="clock_offset", value=round(least, 4), detail=detail)]
