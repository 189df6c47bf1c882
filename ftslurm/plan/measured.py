"""What an earlier run has shown of its costs: how long saves, detections and restarts took, how large its saves were.

Read from the run's journal alone. A cost that the run had no occasion to show, or that its ranks did not tell, is None,
and a remark says so. Means, not medians: of many failures the sum counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING

from ftslurm.core.actions import LaunchAttempt
from ftslurm.core.working import WorkPaced, WorkPaused
from ftslurm.insight.checkpoints import Checkpoint, checkpoints
from ftslurm.insight.facts import actions
from ftslurm.insight.text import count
from ftslurm.insight.walltime import WORK, Category, Interval, of

if TYPE_CHECKING:
    from ftslurm.journal import Entry
    from ftslurm.paths import RunPaths

Sourced = tuple[float, str]
_FAILING = frozenset({Category.DETECTING, Category.RECOVERING})
_NEWEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Costs of a run, each with where it is from; seconds and bytes, None where nobody knows.

    Attributes:
        save_s: for how long the ranks stood still for a save.
        detect_s: from the first sign of a failure until it was noticed.
        restart_s: from there to the first step, in the same job.
        interval_s: the time between two saves, the save itself included.
        drain_s: from a whole checkpoint until it was on shared storage.
        state_bytes: of the largest of the newest checkpoints.
        stepped: (ranks, seconds of a step), as often as measured.
        remarks: what is missing, and why.
    """

    save_s: Sourced | None = None
    detect_s: Sourced | None = None
    restart_s: Sourced | None = None
    interval_s: Sourced | None = None
    drain_s: Sourced | None = None
    state_bytes: Sourced | None = None
    stepped: tuple[tuple[int, float], ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(slots=True)
class Outage:
    """One failure that the job got over by itself: seconds in it, by category."""

    spent: dict[Category, float] = field(default_factory=dict)

    @property
    def detect_s(self) -> float:
        """Until it was noticed."""
        return self.spent.get(Category.DETECTING, 0.0)

    @property
    def restart_s(self) -> float:
        """From there to the first step."""
        return sum(self.spent.values()) - self.detect_s


def measure(paths: RunPaths) -> Measured:
    """Return what a run has shown.

    Raises:
        DataDamaged: its journal cannot be read.
        StorageError: the storage cannot.
    """
    from ftslurm import journal

    return read(list(journal.read(paths)), paths.run_id)


def read(entries: Sequence[Entry], name: str) -> Measured:
    """Return what these entries show; `name` is what the run is called in the sources."""
    if not entries:
        return Measured(remarks=(f"the journal of {name} is empty",))
    saved = checkpoints(entries)
    failed = outages(of(entries).intervals(entries[-1].t))
    pauses = _pauses(entries, saved)
    remarks = []
    if not pauses:
        remarks.append(
            f"{name} does not tell how long its ranks stood still to save: `phase('save')` or the library layout do"
        )
    if not failed:
        remarks.append(f"{name} had no failure that it got over in its job: nothing is known of detection and restart")
    size = max((each.size_bytes or 0 for each in saved[-_NEWEST:]), default=0)
    drains = [each.durable - each.whole for each in saved if each.durable and each.whole]
    gaps = _gaps(saved)
    few = count(len(failed), "failure")
    return Measured(
        save_s=_mean(pauses, f"{count(len(pauses), 'save')} of {name}"),
        detect_s=_mean((each.detect_s for each in failed), f"{few} of {name}"),
        restart_s=_mean((each.restart_s for each in failed), f"{few} of {name}"),
        interval_s=(median(gaps), f"measured: median of {len(gaps)} gaps between saves of {name}") if gaps else None,
        drain_s=_mean(drains, f"{count(len(drains), 'drain')} of {name}"),
        state_bytes=(float(size), f"measured: the largest of the newest saves of {name}") if size else None,
        stepped=tuple(paces(entries)),
        remarks=tuple(remarks),
    )


def paces(entries: Iterable[Entry]) -> Iterator[tuple[int, float]]:
    """Return the seconds of a step that were told, each with the number of ranks that it took them."""
    sizes: dict[int, int] = {}
    for entry in entries:
        sizes.update((launch.attempt, launch.world_size) for launch in actions(entry, LaunchAttempt))
        if isinstance(entry.event, WorkPaced) and entry.event.attempt in sizes and entry.event.step_s > 0:
            yield sizes[entry.event.attempt], entry.event.step_s


def outages(intervals: Iterable[Interval]) -> list[Outage]:
    """Return the failures after which training went on in the same job, by the stretches of a run's time."""
    found: list[Outage] = []
    now: Outage | None = None
    for each in intervals:
        if now is None and each.category in _FAILING:
            now = Outage()
        if now is None:
            continue
        if each.category in WORK:
            found.append(now)
        elif each.category not in (Category.QUEUED, Category.IDLE):
            now.spent[each.category] = now.spent.get(each.category, 0.0) + each.seconds
            continue
        now = None
    return found


def _pauses(entries: Iterable[Entry], saved: Sequence[Checkpoint]) -> list[float]:
    """How long training stood still for each save; empty where that was not told.

    Pauses are told together, now and then, so that the last ones of an attempt may not have been when it failed: only
    saves before the last word of their attempt count, each with the attempt's mean.
    """
    took: dict[int, float] = {}
    until: dict[int, float] = {}
    for entry in entries:
        if isinstance(entry.event, WorkPaused):
            attempt = entry.event.attempt
            took[attempt] = took.get(attempt, 0.0) + entry.event.took_s
            until[attempt] = entry.t
    found: list[float] = []
    for attempt, total_s in took.items():
        told = [each for each in saved if each.attempt == attempt and each.begun and each.begun <= until[attempt]]
        found += [total_s / len(told)] * len(told) if told else []
    return found


def _gaps(saved: Sequence[Checkpoint]) -> list[float]:
    """Times between two saves of one attempt."""
    return [
        later.begun - before.begun
        for before, later in pairwise(saved)
        if later.attempt == before.attempt and later.begun is not None and before.begun is not None
    ]


def _mean(values: Iterable[float], what: str) -> Sourced | None:
    known = list(values)
    return (fmean(known), f"measured: mean of {what}") if known else None
