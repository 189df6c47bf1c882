"""What the user sees in the job's own output: ftslurm's lines, and what rank 0 prints, attempts marked.

Written by a thread, because the job's output file lies on shared storage, which may hang.
"""

from __future__ import annotations

import queue
import sys
import threading
import time

from ftslurm.runtime.logs import shown

MARK = "ftslurm"


class Voice:
    """Standard output of the batch script."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._attempt = -1
        self._thread = threading.Thread(target=self._write_all, name="voice", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Print a line of ftslurm's own."""
        stamp = time.strftime("%H:%M:%S")
        lines = text.splitlines() or [""]
        self._queue.put("".join(f"[{MARK} {stamp}] {shown(line)}\n" for line in lines))

    def output(self, attempt: int, text: str) -> None:
        """Print what rank 0 has printed."""
        if attempt != self._attempt:
            self._attempt = attempt
            self._queue.put(f"[{MARK}] ---- output of rank 0, attempt {attempt} ----\n")
        self._queue.put(text)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is left, for a bounded time."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while (text := self._queue.get()) is not None:
            try:
                sys.stdout.write(text)
                sys.stdout.flush()
            except OSError:
                # The job's output cannot take it (full, over quota); the same lines are in the run's own logs.
                time.sleep(0.5)
