"""Asks Slurm for its view of the job: seldom, with jitter, and only what cannot be learnt otherwise."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

from ftslurm.core.events import Event, SlurmReported
from ftslurm.errors import FtslurmError
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.env import JobEnv
from ftslurm.slurm.records import Source

log = logging.getLogger(__name__)

INTERVAL_S = 20.0
"""sbatch(1) warns against loops of Slurm commands; a lost node is noticed by beats, not here."""


class SlurmWatch:
    """One query per interval."""

    def __init__(
        self, slurm: SlurmClient, job: JobEnv, emit: Callable[[Event], None], on_stale: Callable[[str], None]
    ) -> None:
        """`on_stale` is told when Slurm has started the job anew: the run belongs to that incarnation then."""
        self._on_stale = on_stale
        self._slurm = slurm
        self._job = job
        self._emit = emit

    def run(self) -> None:
        """Ask for ever; a failed query is an event too."""
        while True:
            time.sleep(INTERVAL_S * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            self._emit(self.ask())

    def ask(self) -> SlurmReported:
        """Return Slurm's word. Nodes count as gone only when slurmctld itself lists the job without them."""
        try:
            info = self._slurm.job(self._job.job_id)
        except FtslurmError as error:
            log.warning("Slurm does not say how the job is: %s", error)
            return SlurmReported(job_state="UNKNOWN", error=str(error))
        if info.restart_count is not None and info.restart_count > self._job.restart_count:
            self._on_stale(f"Slurm has started the job anew, restart {info.restart_count}")
            return SlurmReported(job_state="UNKNOWN", error="of another incarnation")
        listed = info.source is Source.CONTROLLER and info.state.holds_nodes and bool(info.nodes)
        gone = tuple(node for node in self._job.nodelist if node not in info.nodes) if listed else ()
        return SlurmReported(job_state=info.state, gone=gone)
