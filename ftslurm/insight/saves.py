"""The checkpoints of a run, as its journal tells of them: which there are, since when, and which of them are good.

The same rules as `core.saving`, read from what was recorded. Where a generation was only found on shared storage,
nobody knows when its files were written: then `seen` is None, and no age is made up for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ftslurm.core.actions import CleanScratch, CommitLocal, LaunchAttempt, Quarantine, Restore
from ftslurm.core.events import (
    GenerationDurable,
    PartDrained,
    PartPending,
    PartReplicated,
    PartSaved,
    StoreDiffers,
    StoreScanned,
)
from ftslurm.core.manifest import generation_name, parse_generation
from ftslurm.core.state import SavedState
from ftslurm.insight.facts import actions, begins_incarnation, says

if TYPE_CHECKING:
    from ftslurm.core.events import Event
    from ftslurm.journal import Entry

GOOD = (SavedState.LOCAL, SavedState.DURABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """One checkpoint. `seen` is when its first file was noticed, `durable` when it was committed on shared storage."""

    generation: str
    step: int
    attempt: int
    state: SavedState
    seen: float | None = None
    durable: float | None = None
    holders: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()
    copies: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def is_lost(self, gone: Collection[str]) -> bool:
        """Tell whether these nodes took the last copy of a part with them."""
        exposed = self.holders - self.drained
        return any(not (frozenset({owner}) | self.copies.get(owner, frozenset())) - set(gone) for owner in exposed)


@dataclass(slots=True)
class Saves:
    """All checkpoints of a run; `see` every entry in order, then ask. `whole`: how many have become so."""

    whole: int = 0
    _known: dict[str, Save] = field(default_factory=dict)
    _seen: dict[str, float] = field(default_factory=dict)
    _wanted: str = ""
    _gone: set[str] = field(default_factory=set)

    @property
    def newest(self) -> Save | None:
        """The newest that is good."""
        return self._last(GOOD)

    @property
    def newest_durable(self) -> Save | None:
        """The newest on shared storage."""
        return self._last((SavedState.DURABLE,))

    @property
    def wanted(self) -> Save | None:
        """The one that the newest attempt was started from; None: from the beginning."""
        return self._known.get(self._wanted)

    def see(self, entry: Entry, lost: Collection[str]) -> list[Save]:
        """Take an entry into account; `lost` are the nodes that it condemns. Returns what is lost with them."""
        if begins_incarnation(entry):
            kept = (SavedState.DURABLE, SavedState.DAMAGED, SavedState.SUSPECT)
            self._gone = set()
            self._known = {name: replace(each, copies={}) for name, each in self._known.items() if each.state in kept}
        self._see_event(entry.event, entry.t)
        if entry.actions:
            self._see_actions(entry)
        self._gone |= set(lost)
        if not lost:
            return []
        gone = [each for each in self._known.values() if each.state is SavedState.LOCAL and each.is_lost(self._gone)]
        self._known |= {each.generation: replace(each, state=SavedState.LOST) for each in gone}
        return gone

    def _see_event(self, event: Event, t: float) -> None:
        if isinstance(event, PartPending | PartSaved):
            self._seen.setdefault(generation_name(event.step, event.attempt), t)
        elif isinstance(event, PartDrained) and not event.error:
            known = self._known.get(event.generation)
            if known is not None and known.state is SavedState.LOCAL:
                self._known[event.generation] = replace(known, drained=known.drained | {event.node})
        elif isinstance(event, PartReplicated) and not event.error:
            self._replicated(event)
        elif isinstance(event, GenerationDurable) and not event.error:
            self._durable(event, t)
        elif isinstance(event, StoreScanned):
            self._scanned(event)

    def _durable(self, event: GenerationDurable, t: float) -> None:
        known = self._known.get(event.generation)
        if known is not None and known.state in GOOD:
            self._known[event.generation] = replace(known, state=SavedState.DURABLE, durable=known.durable or t)
            for name in event.dropped:
                self._known.pop(name, None)

    def _clean(self, action: CleanScratch) -> None:
        """What was not durable and is older than the watermark is of no use any more."""
        limit = parse_generation(action.watermark)
        self._known = {
            name: each
            for name, each in self._known.items()
            if each.state not in (SavedState.LOCAL, SavedState.LOST)
            or parse_generation(name) >= limit
            or name in action.keep
        }

    def _replicated(self, event: PartReplicated) -> None:
        known = self._known.get(event.generation)
        if known is not None and known.state in GOOD and event.owner in known.holders:
            copies = {**known.copies, event.owner: known.copies.get(event.owner, frozenset()) | {event.holder}}
            self._known[event.generation] = replace(known, copies=copies)

    def _scanned(self, event: StoreScanned) -> None:
        found = {name for name, _, _ in event.generations}
        for name in [name for name, each in self._known.items() if each.state is SavedState.DURABLE]:
            if name not in found:
                del self._known[name]
        for name, step, _ in event.generations:
            known = self._known.get(name) or self._fresh(name, step)
            if known.state not in (SavedState.DAMAGED, SavedState.SUSPECT):
                self._known[name] = replace(known, state=SavedState.DURABLE)

    def _see_actions(self, entry: Entry) -> None:
        if any(said.slug == "restore_over" for said in says(entry)) and self._wanted in self._known:
            self._known[self._wanted] = replace(self._known[self._wanted], state=SavedState.LOST)
        for commit in actions(entry, CommitLocal):
            holders = frozenset(part.node for part in commit.parts)
            fresh = self._fresh(commit.generation, commit.step)
            self._known[commit.generation] = replace(fresh, state=SavedState.LOCAL, holders=holders)
            self.whole += 1
        for clean in actions(entry, CleanScratch):
            self._clean(clean)
        for said in says(entry):
            if said.slug == "checkpoint_suspect" and said.facts["generation"] in self._known:
                name = said.facts["generation"]
                self._known[name] = replace(self._known[name], state=SavedState.SUSPECT)
            elif said.slug == "store_copied_again" and isinstance(entry.event, StoreDiffers):
                again = self._known[entry.event.generation]
                self._known[again.generation] = replace(again, state=SavedState.LOCAL, drained=frozenset())
        for damaged in actions(entry, Quarantine):
            if damaged.generation in self._known:
                self._known[damaged.generation] = replace(self._known[damaged.generation], state=SavedState.DAMAGED)
        for launch in actions(entry, LaunchAttempt):
            self._wanted = launch.generation
        for restore in actions(entry, Restore):
            self._wanted = restore.generation

    def _fresh(self, name: str, step: int) -> Save:
        attempt = int(name.rpartition("-")[2])
        return Save(generation=name, step=step, attempt=attempt, state=SavedState.PENDING, seen=self._seen.get(name))

    def _last(self, states: Collection[SavedState]) -> Save | None:
        good = [each for each in self._known.values() if each.state in states]
        return max(good, key=lambda each: (each.step, each.attempt), default=None)
