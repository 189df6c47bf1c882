"""SIGTERM and a closed terminal, for commands that have something to clear away."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Treat both as Ctrl-C: what the command has made is removed on the way out."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
