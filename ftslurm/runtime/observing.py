"""Feeds the observer: a child process that turns what happens into metrics and messages (`ftslurm.observer`).

A process of its own, so that neither a folder that hangs nor a webhook that does not answer costs the supervisor more
than a line in a queue. It learns what was before from the journal, and from here every new entry as it is written
there, and now and then what stands in no journal. If it ends, another one is started a while later; the run takes no
notice.
"""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftslurm.runtime.supervisor import Context, Supervisor

log = logging.getLogger(__name__)

EVERY_S = 10.0
AGAIN_S = 60.0
LEAVE_S = 10.0
KILLED_S = 1.0
MOST_WAITING = 10_000
MODULE = "ftslurm.observer"


class Observing:
    """The observer of one supervisor. `entry` may be called from the supervisor's loop: it waits for nothing."""

    def __init__(self, context: Context, now: Callable[[], dict[str, Any]]) -> None:
        """`now` tells what stands in no journal; it is called in this class's own thread."""
        self._context, self._now = context, now
        observe = context.config.observe
        self._wanted = observe.metrics != "none" or bool(observe.notify)
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._lost = self._over = False

    def start(self) -> None:
        """Begin, if the configuration asks for anything."""
        if self._wanted:
            self._thread = threading.Thread(target=self._feed, name="observing", daemon=True)
            self._thread.start()

    def entry(self, line: str) -> None:
        """A journal entry was written."""
        if self._thread is None or self._lost:
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            # The next observer reads them in the journal.
            self._lost = True
            log.warning("the observer has not taken %d journal entries: another one is started", MOST_WAITING)

    def close(self, timeout_s: float = LEAVE_S) -> None:
        """Let it take its metrics away and tell what is still to be told, for a bounded time."""
        if self._thread is None:
            return
        deadline, self._over = time.monotonic() + timeout_s, True
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            log.warning("the observer takes nothing any more")
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        self._end(max(deadline - time.monotonic(), 0.0))

    # ------------------------------------------------------------------------------------------------- the thread

    def _feed(self) -> None:
        while not self._over:
            try:
                if self._serve():
                    return
            except OSError as error:
                log.warning("the observer has ended (%s); another one is started in %g s", error, AGAIN_S)
            self._end(0.0)
            time.sleep(AGAIN_S)
            self._lost = False

    def _serve(self) -> bool:
        """Feed one observer; True when the supervisor ends, False when too much was waiting."""
        child = self._start()
        due = time.monotonic()
        while not self._lost:
            if time.monotonic() >= due:
                self._tell(child, {"now": self._now()})
                due = time.monotonic() + EVERY_S
            try:
                line = self._lines.get(timeout=max(due - time.monotonic(), 0.0))
            except queue.Empty:
                continue
            if line is None:
                self._tell(child, {"now": self._now(), "end": True})
                return True
            self._write(child, f'{{"entry":{line}}}\n')
        while not self._lines.empty():
            self._lines.get_nowait()
        return False

    def _start(self) -> subprocess.Popen[bytes]:
        context = self._context
        job = {
            "name": context.config.name,
            "job_id": context.job.requeue_id,
            "user": context.job.user,
            "partition": context.job.partition,
        }
        argv = [sys.executable, "-I", "-m", MODULE, str(context.paths.root)]
        self._child = subprocess.Popen(
            argv, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        # By the pipe, which nobody else can read: addresses of webhooks are secrets.
        self._tell(self._child, {"job": job, "observe": context.config.observe.plain()})
        return self._child

    def _tell(self, child: subprocess.Popen[bytes], what: dict[str, Any]) -> None:
        self._write(child, json.dumps(what) + "\n")

    def _write(self, child: subprocess.Popen[bytes], line: str) -> None:
        rest = memoryview(line.encode())
        while rest and child.stdin is not None:
            rest = rest[child.stdin.write(rest) :]

    def _end(self, timeout_s: float) -> None:
        """Wait for the child, then kill it: what it has not told by then is not told."""
        child, self._child = self._child, None
        if child is None:
            return
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            log.warning("the observer has not ended in time and is killed")
            child.kill()
            with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, on a folder that does not answer
                child.wait(KILLED_S)
        if child.stdin is not None:
            with suppress(OSError):  # whoever could have read it is gone
                child.stdin.close()


def now_of(supervisor: Supervisor) -> dict[str, Any]:
    """What is known of a run now and stands in no journal."""
    run = supervisor.run
    attempt = run.attempt
    step, paces = supervisor.progress.pace()
    ranks = {"starting": 0, "running": 0, "finished": 0, "failed": 0}
    if attempt is not None:
        ranks["finished"], ranks["failed"] = len(attempt.finished), len(attempt.failed)
        rest = attempt.world_size - ranks["finished"] - ranks["failed"]
        ranks["running" if attempt.released else "starting"] = max(rest, 0) if not attempt.fencing else 0
    used = len(attempt.nodes) if attempt is not None else 0
    return {
        "t": time.time(),
        "phi": supervisor.hub.phi_max(),
        "step": step,
        "paces": [[pace.steps, round(pace.seconds, 6)] for pace in paces],
        "ranks": ranks,
        "nodes": {"used": used, "spare": max(len(run.usable) - used, 0), "excluded": len(run.condemned)},
        "wanted": run.wanted,
    }
