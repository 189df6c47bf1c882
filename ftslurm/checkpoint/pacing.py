"""How fast bytes move, who is told, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ftslurm.errors import TryAgain

if TYPE_CHECKING:
    from threading import Event

Progress: TypeAlias = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

_LONGEST_NAP_S = 1.0


@dataclass(slots=True, kw_only=True)
class Pacer:
    """Called with the bytes of each block that was dealt with: waits for the rate limit, tells, stops.

    `rate_limit` is in bytes per second, 0 for none; unused time is not saved up.

    Calling it raises TryAgain once `stop` is set.
    """

    rate_limit: int = 0
    progress: Progress | None = None
    stop: Event | None = None
    total: int = 0
    done: int = 0
    _free_at: float = 0.0

    def begin(self, total: int) -> None:
        """Start again: `total` bytes are to be dealt with."""
        self.total = total
        self.done = 0

    def __call__(self, size_bytes: int, /) -> None:
        """`size_bytes` more are done."""
        self.done += size_bytes
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)
        self._refuse_if_stopped()
        if self.rate_limit:
            self._free_at = max(self._free_at, time.monotonic()) + size_bytes / self.rate_limit
            self._wait_until(self._free_at)

    def _wait_until(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0:
            nap = min(left, _LONGEST_NAP_S)
            if self.stop is None:
                time.sleep(nap)
            else:
                self.stop.wait(nap)
                self._refuse_if_stopped()

    def _refuse_if_stopped(self) -> None:
        if self.stop is not None and self.stop.is_set():
            raise TryAgain("stopped on request")
