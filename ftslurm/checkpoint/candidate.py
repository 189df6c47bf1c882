"""One file that may belong to a checkpoint, and the verdict on it: waiting, finished, or refused with a reason."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.folderscan import Identity, identity_of
from ftslurm.checkpoint.soundness import fault_of, tells_its_end
from ftslurm.checkpoint.writers import is_open_for_writing, open_by
from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    from pathlib import Path

    from ftslurm.checkpoint.patterns import Marker, Match
    from ftslurm.checkpoint.writers import Writers


class State(StrEnum):
    """The verdict on a file, for its present identity."""

    WAITING = "waiting"
    FINISHED = "finished"
    REFUSED = "refused"


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A file that matches.

    `still_s`: for how long it was seen unchanged. `quiet_s`: the same, but only while its writers lived and ran.
    `renamed`: it came by a rename; `sealed`: with its whole folder. `held_by`: processes that were seen writing it.
    """

    name: str
    match: Match
    identity: Identity
    still_s: float = 0.0
    quiet_s: float = 0.0
    renamed: bool = False
    sealed: bool = False
    held_by: set[int] = field(default_factory=set)
    fresh: bool = True
    state: State = State.WAITING
    reason: str = ""

    def changed(self, identity: Identity) -> None:
        """It is another file now, or has other content: all that was known of it is void."""
        self.identity = identity
        self.still_s = self.quiet_s = 0.0
        self.renamed = self.sealed = False
        self.fresh = True
        self.state, self.reason = State.WAITING, ""

    def passed(self, seconds: float, writers: Writers) -> None:
        """It stayed unchanged for so long. What was first seen, or last changed, just now earns nothing yet."""
        if not self.fresh:
            self.still_s += seconds
            self.quiet_s += seconds
        self.fresh = False
        if writers.fault:
            self.quiet_s = 0.0
        if self.state is State.WAITING:
            self.reason = writers.fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Looks at files in `folder`."""

    folder: Path
    settle_s: float
    marker: Marker | None = None

    def judge(self, candidate: Candidate, writers: Writers, *, last_word: bool = False) -> None:
        """Decide, if it can be decided now. With `last_word` the writers left well: nothing more will change."""
        try:
            with disk.opened(self.folder, candidate.name) as descriptor:
                self._decide(candidate, descriptor, writers, last_word=last_word)
        except FileNotFoundError:
            pass  # gone: the next listing drops it
        except (DataDamaged, PermissionError) as error:
            candidate.state, candidate.reason = State.REFUSED, str(error)
        except OSError as error:  # the disk has a bad moment: nothing has settled
            candidate.quiet_s, candidate.reason = 0.0, f"it cannot be read: {error.strerror}"

    def _decide(self, candidate: Candidate, descriptor: int, writers: Writers, *, last_word: bool) -> None:
        if not (last_word or self._is_due(candidate)):
            self._note_holders(candidate, descriptor, writers)
            return
        if is_open_for_writing(descriptor, writers.alive):
            candidate.quiet_s = 0.0
            candidate.reason = "somebody has it open for writing"
            return
        path = self.folder / candidate.name
        dead = candidate.held_by - writers.alive
        by_itself = candidate.renamed or self.marker is not None or last_word
        if dead and not by_itself and not tells_its_end(descriptor, path):
            candidate.state = State.REFUSED
            candidate.reason = f"its writer, process {min(dead)}, ended before the file had settled"
            return
        fault = fault_of(descriptor, path)
        candidate.state = State.REFUSED if fault else State.FINISHED
        candidate.reason = fault

    def _is_due(self, candidate: Candidate) -> bool:
        """Whether one of the three ways applies; leaves the reason why not."""
        if self.marker is not None:
            name = self.marker.of(candidate.name, candidate.match.step)
            marker = identity_of(self.folder, name)
            due = marker is not None and marker.mtime_ns >= candidate.identity.mtime_ns
            candidate.reason = "" if due else f"its marker {name!r} is not there, or older"
            return due
        due = candidate.renamed or candidate.quiet_s >= self.settle_s
        candidate.reason = "" if due else candidate.reason or "it has not settled"
        return due

    def _note_holders(self, candidate: Candidate, descriptor: int, writers: Writers) -> None:
        """Remember who writes it, once per change: if that process dies early, a settled file proves nothing."""
        if candidate.still_s == 0.0 and not candidate.held_by & writers.alive:
            with contextlib.suppress(OSError):
                candidate.held_by |= open_by(descriptor, writers.alive)
