"""One save at a time, beside training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class Background(Generic[_Result]):
    """Runs one job at a time in a thread of its own, and tells how it ended.

    `finished` is called in that thread with the result, or with the error; after it the next job may be submitted. The
    thread does not keep the process alive: `wait` before leaving, for as long as can be afforded.
    """

    def __init__(self, finished: Callable[[_Result | None, Exception | None], None]) -> None:
        self._finished = finished
        self._idle = threading.Event()
        self._idle.set()
        self._claim = threading.Lock()
        self.last_error: Exception | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a job is unfinished."""
        return not self._idle.is_set()

    def submit(self, job: Callable[[], _Result]) -> bool:
        """Start a job; False where the one before is unfinished, and then nothing happens."""
        with self._claim:
            if self.is_busy:
                return False
            self._idle.clear()
        threading.Thread(target=self._run, args=(job,), name="ftslurm-save", daemon=True).start()
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for the job in flight; False where it is still unfinished after `timeout_s`."""
        return self._idle.wait(timeout_s)

    def _run(self, job: Callable[[], _Result]) -> None:
        result: _Result | None = None
        self.last_error = None
        try:
            result = job()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to the one who submitted the job
            self.last_error = error
        try:
            self._finished(result, self.last_error)
        finally:
            self._idle.set()
