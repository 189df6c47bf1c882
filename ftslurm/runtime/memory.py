"""What a supervisor leaves in the node ledger: nodes that were given up, omens of GPUs, and how long requeues took.

A thread writes, because shared storage may hang; only the end of the process waits for it, and that briefly.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.core.events import Phase
from ftslurm.core.lemons import Evidence, Mark, mark_of, mark_of_xid
from ftslurm.core.pricing import REQUEUE_DELAY_S
from ftslurm.core.state import Run
from ftslurm.errors import FtslurmError
from ftslurm.ledger import Wait, Writer
from ftslurm.paths import ledger_of

if TYPE_CHECKING:
    from ftslurm.runtime.supervisor import Context

log = logging.getLogger(__name__)


def memory_of(context: Context) -> Memory:
    """Return the memory of a supervisor."""
    folder = ledger_of(context.paths.root.parent, context.config.recovery.ledger)
    return Memory(folder, context.paths.run_id, context.job.partition)


class Memory:
    """The ledger's writer of one supervisor; `folder` is the ledger's."""

    def __init__(self, folder: Path, run_id: str, partition: str) -> None:
        self._writer = Writer(folder, run_id)
        self._run_id = run_id
        self._partition = partition
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def note(self, before: Run, run: Run) -> None:
        """Take down what a step of the run has shown."""
        now = time.time()
        for node in run.condemned.keys() - before.condemned.keys():
            found = run.condemned[node]
            counts = mark_of(found.cause)
            if counts is not None:
                self._mark(node, now, found.cause, counts, (run.job_id, found.reason))
        for xid in run.xids if run.xids is not before.xids else ():
            counts = mark_of_xid(xid.code) if xid not in before.xids else None
            if counts is not None:
                self._mark(xid.node, now, f"xid_{xid.code}", counts, (run.job_id, f"XID {xid.code} on GPU {xid.gpu}"))
        if before.phase is Phase.REQUEUED and run.phase is Phase.STARTING and before.requeued_at:
            wait_s = max(now - before.requeued_at - REQUEUE_DELAY_S, 0.0)
            wait = Wait(at=now, wait_s=round(wait_s, 1), partition=self._partition, nodes=len(run.nodes))
            self._later(partial(self._writer.wait, wait))

    def close(self, timeout_s: float) -> None:
        """Let what was noted be written, if that does not take long."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(timeout_s)

    def _mark(self, node: str, at: float, cause: str, counts: tuple[Evidence, float], told: tuple[str, str]) -> None:
        job, reason = told
        evidence, weight = counts
        mark = Mark(
            node=node, at=at, cause=cause, evidence=evidence, weight=weight, run=self._run_id, job=job, reason=reason
        )
        self._later(partial(self._writer.mark, mark))

    def _later(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
            self._thread.start()
        self._work.put(work)

    def _write(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except FtslurmError as error:
                log.warning("the node ledger was not written: %s", error)
