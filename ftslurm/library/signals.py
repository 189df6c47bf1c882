"""SIGTERM and SIGUSR1 mean: save and stop. The program's own handler, if it has set one before, is called as well."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

WATCHED = (signal.SIGTERM, signal.SIGUSR1)


class SignalWatch:
    """Remembers the first signal that came. Only for a program without a supervisor, which would ask otherwise."""

    def __init__(self) -> None:
        self.seen = ""
        self._before: dict[signal.Signals, Any] = {}
        self._handler: Callable[[int, FrameType | None], None] = (
            self._take
        )  # one object: bound methods differ each time

    def install(self) -> None:
        """Begin to watch; only the main thread can (signal(3) of Python)."""
        if threading.current_thread() is threading.main_thread():
            for number in WATCHED:
                self._before[number] = signal.signal(number, self._handler)

    def remove(self) -> None:
        """Put the earlier handlers back, unless the program has set its own since."""
        for number, before in self._before.items():
            if signal.getsignal(number) is self._handler and threading.current_thread() is threading.main_thread():
                signal.signal(number, before if before is not None else signal.SIG_DFL)
        self._before.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.seen = self.seen or signal.Signals(number).name
        before = self._before.get(signal.Signals(number))
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)
