"""For commands that read much and end soon."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 200_000


@contextmanager
def little_garbage() -> Iterator[None]:
    """Let Python look for garbage seldom: what is read lives until the end, and looking takes a fifth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(MANY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
