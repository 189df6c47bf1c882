"""What plans are priced with and nobody waits for: the queue's wait, where nodes are, how loaded they are.

Asked in the background, of Slurm and of the ledger; the answers are events. The wait of a requeued job is the larger of
what `sbatch --test-only` says for a new job of this size and of the median of the requeues that were measured. Slurm's
word alone is not believed: until some requeues were measured here nobody knows the wait.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm import ledger
from ftslurm.config import Config
from ftslurm.core.events import Event
from ftslurm.core.lemons import DAY_S
from ftslurm.core.placement import Strategy
from ftslurm.core.state import Run
from ftslurm.core.survey import NodesSurveyed, QueueEstimated
from ftslurm.errors import FtslurmError
from ftslurm.paths import ledger_of
from ftslurm.quantities import format_slurm_time
from ftslurm.slurm import nodeset
from ftslurm.slurm.client import SlurmClient

if TYPE_CHECKING:
    from ftslurm.runtime.supervisor import Context

log = logging.getLogger(__name__)

PAUSE_S = 60.0
HISTORY_DAYS = 28.0
LEAST_MEASURED = 3
EMPTY_JOB = "#!/bin/sh\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a forecaster asks: the configuration, the job, and the ledger's folder."""

    config: Config
    partition: str
    ledger: Path


def forecast_place(context: Context) -> Place:
    """Return where the forecaster of a supervisor asks."""
    folder = ledger_of(context.paths.root.parent, context.config.recovery.ledger)
    return Place(config=context.config, partition=context.job.partition, ledger=folder)


class Forecaster:
    """Asks; each question at most once a minute."""

    def __init__(self, slurm: SlurmClient, place: Place, emit: Callable[[Event], None]) -> None:
        self._slurm = slurm
        self._place = place
        self._emit = emit
        self._asked = -PAUSE_S
        self._busy = threading.Lock()

    def expect_plan(self, run: Run) -> None:
        """A node is in doubt: a plan may follow, which will want to know the queue's wait."""
        now = time.monotonic()
        if now - self._asked >= PAUSE_S:
            self._asked = now
            self._start(lambda: self._ask(run))

    def survey(self) -> None:
        """Learn where nodes are and how loaded, before the first attempt is placed."""
        self._start(self._survey)

    def _start(self, work: Callable[[], None]) -> None:
        """Do it in a thread of its own, because storage may hang; one that hangs is not joined by another."""
        if not self._busy.acquire(blocking=False):
            return

        def run() -> None:
            try:
                work()
            finally:
                self._busy.release()

        threading.Thread(target=run, name="forecast", daemon=True).start()

    def _ask(self, run: Run) -> None:
        self._survey()
        if self._place.config.recovery.continue_ != "none":
            self._emit(self._estimate(run))

    def _survey(self) -> None:
        strategy = Strategy(self._place.config.recovery.placement)
        try:
            if strategy is Strategy.TOPOLOGY:
                self._emit(NodesSurveyed(switches=tuple(sorted(self._slurm.switches().items()))))
            elif strategy is Strategy.LOAD_BALANCED:
                self._emit(NodesSurveyed(loads=tuple(sorted(self._slurm.loads().items()))))
        except FtslurmError as error:
            log.info("nodes cannot be surveyed, Slurm's order is taken: %s", error)

    def _estimate(self, run: Run) -> QueueEstimated:
        try:
            forecast = self._slurm.test_only(EMPTY_JOB, self._options(run))
            measured = self._measured()
        except FtslurmError as error:
            return QueueEstimated(wait_s=None, source=str(error))
        if forecast.start is None:
            return QueueEstimated(wait_s=None, source=f"Slurm names no start: {forecast.text}")
        slurms = max(forecast.start - time.time(), 0.0)
        if len(measured) < LEAST_MEASURED:
            source = f"Slurm says {slurms:.0f} s; {len(measured)} requeues were measured, {LEAST_MEASURED} are wanted"
            return QueueEstimated(wait_s=None, source=source)
        median = statistics.median(measured)
        source = f"Slurm says {slurms:.0f} s, the median of {len(measured)} requeues was {median:.0f} s"
        return QueueEstimated(wait_s=round(max(slurms, median), 1), source=source)

    def _options(self, run: Run) -> list[str]:
        resources, spares = self._place.config.resources, self._place.config.recovery.spares
        options = [f"--nodes={run.wanted + spares}", f"--ntasks-per-node={self._place.config.tasks_per_node}"]
        options += [f"--partition={self._place.partition}"] if self._place.partition else []
        options += [f"--time={format_slurm_time(resources.time)}"] if resources.time is not None else []
        options += [f"--gpus-per-node={resources.gpus_per_node}"] if resources.gpus_per_node else []
        out = sorted({*run.condemned, *run.suspects})
        return options + ([f"--exclude={nodeset.fold(out)}"] if out else [])

    def _measured(self) -> list[float]:
        since = time.time() - HISTORY_DAYS * DAY_S
        waits = ledger.read(self._place.ledger).waits
        return [each.wait_s for each in waits if each.at >= since and each.partition == self._place.partition]
