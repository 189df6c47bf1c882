"""Every checkpoint of a run, as its journal tells: when it was whole, when it was safe, and how large it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftslurm.core.actions import CommitLocal, Quarantine, ReleaseRanks
from ftslurm.core.events import GenerationDurable, PartPending, PartSaved
from ftslurm.core.manifest import generation_name
from ftslurm.insight.facts import actions

if TYPE_CHECKING:
    from ftslurm.journal import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One generation; times in epoch seconds, None where it did not come to that.

    Attributes:
        begun: its first file was seen.
        whole: it could be gone back to.
        durable: it was committed on shared storage.
        size_bytes: of all its parts.
        restored: how many attempts were started from it.
        damaged: why it was set aside; empty: it was not.
    """

    generation: str
    step: int
    attempt: int
    begun: float | None = None
    whole: float | None = None
    durable: float | None = None
    size_bytes: int | None = None
    restored: int = 0
    damaged: str = ""

    @property
    def save_s(self) -> float | None:
        """From its first file until it was whole."""
        return None if self.begun is None or self.whole is None else max(self.whole - self.begun, 0.0)

    @property
    def durable_s(self) -> float | None:
        """From its first file until it was on shared storage."""
        return None if self.begun is None or self.durable is None else max(self.durable - self.begun, 0.0)


def checkpoints(entries: Iterable[Entry]) -> list[Checkpoint]:
    """Return all that became whole, in the order of their steps."""
    begun: dict[str, float] = {}
    found: dict[str, Checkpoint] = {}
    for entry in entries:
        event = entry.event
        if isinstance(event, PartPending | PartSaved):
            begun.setdefault(generation_name(event.step, event.attempt), entry.t)
        elif isinstance(event, GenerationDurable) and event.generation in found and not event.error and not event.gone:
            known = found[event.generation]
            found[event.generation] = replace(known, durable=known.durable or entry.t)
        for commit in actions(entry, CommitLocal):
            name = commit.generation
            fresh = Checkpoint(
                generation=name,
                step=commit.step,
                attempt=int(name.rpartition("-")[2]),
                begun=begun.get(name),
                whole=entry.t,
                size_bytes=sum(part.size_bytes for part in commit.parts),
            )
            found.setdefault(name, fresh)
        for damaged in actions(entry, Quarantine):
            if damaged.generation in found:
                found[damaged.generation] = replace(found[damaged.generation], damaged=damaged.reason)
        for release in actions(entry, ReleaseRanks):
            _restored(found, release)
    return sorted(found.values(), key=lambda each: (each.step, each.attempt))


def _restored(found: dict[str, Checkpoint], release: ReleaseRanks) -> None:
    """Count the restart; a path ends with the generation, or the program was given the step alone."""
    if not release.checkpoint or release.again:
        return
    same = [name for name, each in found.items() if each.step == release.step and each.attempt < release.attempt]
    if same:
        name = max(same)
        found[name] = replace(found[name], restored=found[name].restored + 1)
