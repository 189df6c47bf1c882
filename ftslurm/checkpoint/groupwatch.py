"""Knows when a group of files that make one checkpoint is complete: by what its framework says, and by its silence.

Different from `watch`, which looks at single files, a group is looked at as a whole:

- its files are those that were written since the attempt began. One that lay there before and was not written again
  keeps the group waiting: half of an older save and half of a new one look like a whole. Only what its name gives to a
  rank that is not of this world is passed over;
- it has *settled*: for `settle_s` nothing of it changed, nothing came and nothing went, and all this while the
  attempt's processes on this node lived and none was stopped; then nobody here has a file open for writing;
- the framework's own check finds nothing wrong; on a node's own scratch, where other nodes' files cannot be seen, each
  file must only be sound, and whoever brings all of them together asks the framework.

A folder on shared storage is seen by every node; each vouches for its own processes only, so that the group counts
when all of them say the same. What a network file system hides for a while is seen later: nothing here is decided by a
clock of another host, and only time that was watched counts, at most a third of `settle_s` from one look to the next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.folderscan import Identity, identity_of, kept_baseline
from ftslurm.checkpoint.groups import FILES, also_of
from ftslurm.checkpoint.soundness import fault_of
from ftslurm.checkpoint.watch import FoundFile, ScanResult, StepFiles
from ftslurm.checkpoint.writers import Writers, is_open_for_writing
from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from ftslurm.checkpoint.frameworks.framework import Found, Framework

_LONGEST_LOOK_S = 5.0
_FULL_LOOK_S = 5.0
_PATIENCE = 10
_RANK = re.compile(r"(?:rank[_-]?|rng_state_|^__)([0-9]{1,7})(?![0-9])")
_NOBODY = Writers(alive=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRules:
    """What to watch for.

    `settle_s`: as in `watch.Rules`. `world`: the ranks of the attempt. `also`: the user's patterns of further files.
    `once`: a group that was told must not change any more; else it is thought of anew. `shared`: all ranks' files can
    be seen here, wherever they run.
    """

    framework: Framework
    settle_s: float
    world: int
    also: tuple[str, ...] = ()
    once: bool = True
    shared: bool = False


@dataclass(slots=True, kw_only=True)
class _Candidate:
    """A group, as it was seen last.

    `quiet_s`: for how long it was seen unchanged while its writers lived and ran; `still_s`: the same, whatever they
    did. `ask_at`: when its framework is asked again after it has found something wrong.
    """

    found: Found
    files: dict[str, Identity]
    old: tuple[str, ...]
    quiet_s: float = 0.0
    still_s: float = 0.0
    ask_at: float = 0.0
    told: bool = False
    spoilt: bool = False
    reason: str = "it has not settled"

    def is_as(self, other: _Candidate) -> bool:
        """Whether nothing has changed between two looks."""
        return (self.found.name, self.files, self.old) == (other.found.name, other.files, other.old)


class GroupWatcher:
    """Watches one attempt's checkpoints in one folder. Not for several threads at once."""

    def __init__(self, folder: Path, rules: GroupRules, baseline_file: Path) -> None:
        self._folder, self._rules = folder, rules
        self._before = kept_baseline(baseline_file, self._all_files)
        self._candidates: dict[int, _Candidate] = {}
        self._last_look: float | None = None
        self._most_files = 0
        self._sees_all = True
        self._last_full = float("-inf")

    def expect(self, local_ranks: Collection[int]) -> None:
        """These ranks run here: on a node's own scratch only their files can be seen."""
        self._sees_all = self._rules.shared or len(local_ranks) >= self._rules.world

    def close(self) -> None:
        """Stop watching."""

    def forget(self, step: int) -> None:
        """A complete step could not be kept: think again about it."""
        if step in self._candidates:
            self._candidates[step].told = False
            self._candidates[step].quiet_s = 0.0

    def scan(self, now: float, writers: Writers | Callable[[], Writers]) -> ScanResult:
        """What is new at `now` (monotonic seconds); looks at the folder a few times in `settle_s`, not more often."""
        last, period_s = self._last_look, min(self._rules.settle_s / 3, _LONGEST_LOOK_S)
        if last is not None and now - last < period_s:
            return ScanResult(pending=self._pending())
        self._last_look = now
        refused = self._look(0.0 if last is None else min(now - last, self._rules.settle_s / 3))
        complete: list[StepFiles] = []
        if any(not each.told for each in self._candidates.values()):
            present = writers if isinstance(writers, Writers) else writers()
            for step, candidate in sorted(self._candidates.items()):
                if not candidate.told and self._judge(candidate, present, now):
                    complete.append(self._tell(step, candidate))
        return ScanResult(complete=tuple(complete), pending=self._pending(), refused=refused)

    def attempt_ended(self, now: float, *, clean: bool = False) -> ScanResult:
        """The last result: no process of the attempt is left here.

        What had not settled is dropped, unless `clean` says that every rank ended with code 0.
        """
        self._last_look = now
        refused, complete = self._look(0.0), list[StepFiles]()
        for step, candidate in sorted(self._candidates.items()):
            if candidate.told:
                continue
            why = self._fault(candidate, _NOBODY, now=float("inf")) if clean else candidate.reason
            if clean and not why:
                complete.append(self._tell(step, candidate))
            else:
                refused = (*refused, (candidate.found.name or f"step {step}", f"the attempt ended: {why}"))
        return ScanResult(complete=tuple(complete), refused=refused)

    # ---------------------------------------------------------------------------------------------- looking

    def _all_files(self) -> dict[str, Identity]:
        return self._identities([name for found in self._rules.framework.find(self._folder) for name in found.files])

    def _identities(self, names: Collection[str]) -> dict[str, Identity]:
        looked = ((name, identity_of(self._folder, name)) for name in names)
        return {name: identity for name, identity in looked if identity is not None}

    def _look(self, watched_s: float) -> tuple[tuple[str, str], ...]:
        """Take in what is there now; returns what changed after it was told."""
        refused: list[tuple[str, str]] = []
        seen, once = self._seen(full=self._is_full_look()), self._rules.once
        for step, fresh in seen.items():
            known = self._candidates.get(step)
            if known is None or not (known.is_as(fresh) or (known.told and once)):
                self._candidates[step] = fresh
            elif known.is_as(fresh):
                known.still_s += watched_s
                known.quiet_s += watched_s
            elif not known.spoilt:
                known.spoilt = True
                refused.append((known.found.name, f"step {step} was captured already, and was written again since"))
        self._candidates = {
            step: each for step, each in self._candidates.items() if step in seen or (each.told and once)
        }
        return tuple(refused)

    def _is_known(self, found: Found, known: _Candidate | None) -> bool:
        """Whether a group that needs no more thought has the same names as before."""
        if known is None:
            return all(name in self._before for name in found.files)
        names = {*known.files, *known.old}
        return known.told and known.found.name == found.name and names.issuperset(found.files)

    def _seen(self, *, full: bool) -> dict[int, _Candidate]:
        """The groups of which something was written since the attempt began; the last one of each step.

        Many nodes look at one folder: files of groups that are over are asked for with a `full` look only.
        """
        seen: dict[int, _Candidate] = {}
        for found in self._rules.framework.find(self._folder):
            known = self._candidates.get(found.step)
            if not full and self._is_known(found, known):
                seen |= {found.step: known} if known is not None else {}
                continue
            files = self._identities(found.files)
            new = {name: identity for name, identity in files.items() if self._before.get(name) != identity}
            if new:
                own = replace(found, files=tuple(sorted(new)))
                old = tuple(name for name in sorted(set(files) - set(new)) if not self._is_beyond(name))
                more = self._identities(also_of(self._folder, self._rules.also, found.step))
                seen[found.step] = _Candidate(found=own, files=new | more, old=old)
        return seen

    def _is_beyond(self, name: str) -> bool:
        """Whether a file is named after a rank that is not of this world: a larger one has left it."""
        ranks = _RANK.findall(name.rpartition("/")[2])
        return any(int(rank) >= self._rules.world for rank in ranks)

    def _is_full_look(self) -> bool:
        now = self._last_look or 0.0
        if now - self._last_full < _FULL_LOOK_S:
            return False
        self._last_full = now
        return True

    def _pending(self) -> tuple[int, ...]:
        return tuple(sorted(step for step, each in self._candidates.items() if not each.told))

    # ---------------------------------------------------------------------------------------------- judging

    def _judge(self, candidate: _Candidate, writers: Writers, now: float) -> bool:
        if writers.fault:
            candidate.quiet_s, candidate.reason = 0.0, writers.fault
            return False
        if candidate.quiet_s < self._rules.settle_s:
            return False
        candidate.reason = self._fault(candidate, writers, now)
        return not candidate.reason

    def _fault(self, candidate: _Candidate, writers: Writers, now: float) -> str:
        """Why a group that changes no more is not complete; "" where it is."""
        if now < candidate.ask_at:
            return candidate.reason
        try:
            if any(self._is_written(name, writers) for name in candidate.files):
                candidate.quiet_s = 0.0
                return "somebody has it open for writing"
            fault = self._checked(candidate.found)
        except DataDamaged as error:
            fault = str(error)
        except OSError as error:  # gone since the last look, or the storage has a bad moment
            fault = f"it cannot be read: {error.strerror}: {error.filename}"
        fault = fault or self._lacks(candidate, ended=now == float("inf"))
        candidate.ask_at = now + self._rules.settle_s if fault else 0.0
        return fault

    def _checked(self, found: Found) -> str:
        if self._sees_all:
            return self._rules.framework.check(self._folder, found, self._rules.world)
        for name in found.files:
            with disk.opened(self._folder, name) as descriptor:
                fault = fault_of(descriptor, self._folder / name)
            if fault:
                return f"{name}: {fault}"
        return ""

    def _is_written(self, name: str, writers: Writers) -> bool:
        with disk.opened(self._folder, name) as descriptor:
            return is_open_for_writing(descriptor, writers.alive)

    def _lacks(self, candidate: _Candidate, *, ended: bool) -> str:
        """What no framework sees: files of an earlier attempt; and too few, where nobody knows how many there are."""
        if candidate.old:
            return f"{candidate.old[0]} is still that of an earlier attempt"
        if self._rules.framework.name != FILES and self._sees_all:
            return ""
        few = len(candidate.files) < self._most_files and not ended
        if few and candidate.still_s < self._rules.settle_s * _PATIENCE:
            return f"there are {len(candidate.files)} files where an earlier step had {self._most_files}"
        return ""

    def _tell(self, step: int, candidate: _Candidate) -> StepFiles:
        candidate.told, candidate.reason = True, ""
        self._most_files = max(self._most_files, len(candidate.files))
        found = (FoundFile(name=name, rank=None, identity=candidate.files[name]) for name in sorted(candidate.files))
        return StepFiles(step=step, files=tuple(found))
