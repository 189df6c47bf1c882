from __future__ import annotations

import time

WAIT_S = 60.0


def wait_until(condition, what: str) -> None:
    """Poll until `condition()` holds; fail the test if it does not in time."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
