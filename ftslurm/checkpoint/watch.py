"""Knows when a program has finished writing a checkpoint, and refuses what a killed or stopped writer left.

A file is finished in one of three ways:

- a *done-marker* is configured: it exists and is not older than the file (then nothing else counts);
- the file, or its folder, was *renamed* into place from a name that does not match;
- it has *settled*: for `settle_s` its size and time did not change, and all this while the attempt's processes lived
  and none was stopped; then nobody has it open for writing.

In each case its structure must be sound. Time counts only as far as it was watched, at most a third of `settle_s` from
one scan to the next: after a freeze of the whole node nothing has settled. What lay in the folder when the attempt
began is not the attempt's, unless it changes.

A step is complete when every file seen of it is finished and no other can follow: each local rank has its file
({rank}), or the pattern has room for one file, or the whole folder came by a rename, or nothing new came for `settle_s`
(ten times as long where earlier steps had more files).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ftslurm.checkpoint.arrivals import Arrivals, Change, News
from ftslurm.checkpoint.candidate import Candidate, Judge, State
from ftslurm.checkpoint.folderscan import Identity, Listing, baseline, identity_of, listing
from ftslurm.checkpoint.writers import Writers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from ftslurm.checkpoint.patterns import Marker, Patterns

_FULL_LOOK_S = 60.0
_BLIND_LOOK_S = 5.0
_PATIENCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What to watch for.

    `settle_s`: too low and a slow writer's pauses look like its end; too high and each save counts that much later.
    `local_ranks`: the ranks that run here, for patterns with {rank}; empty where unknown.
    """

    patterns: Patterns
    settle_s: float = 2.0
    done_marker: Marker | None = None
    local_ranks: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A finished file, with the identity that was judged."""

    name: str
    rank: int | None
    identity: Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFiles:
    """All files of one step on this node, sorted by name."""

    step: int
    files: tuple[FoundFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """What a scan found: each complete step and each refusal is told once, `pending` every time."""

    complete: tuple[StepFiles, ...] = ()
    pending: tuple[int, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Memory:
    """What is known from scan to scan.

    `settled` holds the names that need no more thought, as they were then; `refused` those of them that were refused,
    by step; `news` the refusals that are still to be told.
    """

    settled: dict[str, Identity]
    candidates: dict[str, Candidate] = field(default_factory=dict)
    done_steps: set[int] = field(default_factory=set)
    refused: dict[int, set[str]] = field(default_factory=dict)
    odd: set[str] = field(default_factory=set)
    news: list[tuple[str, str]] = field(default_factory=list)
    unfinished: set[tuple[str, Identity]] = field(default_factory=set)
    unfinished_still_s: float = 0.0
    most_files: int = 0


class Watcher:
    """Watches one attempt's files on one node. Not for several threads at once."""

    def __init__(self, folder: Path, rules: Rules, baseline_file: Path) -> None:
        self._folder = folder
        self._rules = rules
        self._judge = Judge(folder=folder, settle_s=rules.settle_s, marker=rules.done_marker)
        self._arrivals = Arrivals(folder, rules.patterns)
        self._memory = _Memory(baseline(baseline_file, folder, rules.patterns))
        self._last_scan: float | None = None
        self._last_look = float("-inf")

    def expect(self, local_ranks: Collection[int]) -> None:
        """These ranks run here: with {rank} in the pattern a step is complete when each has its file."""
        self._rules = replace(self._rules, local_ranks=frozenset(local_ranks))

    def close(self) -> None:
        """Stop watching."""
        self._arrivals.close()

    def scan(self, now: float, writers: Writers | Callable[[], Writers]) -> ScanResult:
        """What is new at `now` (monotonic seconds). Cheap while nothing happens: one system call.

        `writers` is asked for only when there are files to judge.
        """
        watched_s = self._watched(now)
        news = self._arrivals.read()
        if not (news.look or self._memory.candidates or self._is_time_to_look(now)):
            return ScanResult()
        if news.look or self._waits_for_others() or self._is_time_to_look(now):
            self._look(now, news, watched_s)
        if self._memory.candidates:
            present = writers if isinstance(writers, Writers) else writers()
            self._advance(watched_s, present)
        return self._tell()

    def attempt_ended(self, now: float, *, clean: bool = False) -> ScanResult:
        """The last result: no process of the attempt is left. Nothing is pending afterwards.

        Files that had not settled are dropped, unless `clean` says that every rank ended with code 0.
        """
        watched_s = self._watched(now)
        self._look(now, self._arrivals.read(), watched_s)
        nobody = Writers(alive=frozenset())
        self._advance(watched_s, nobody, last_word=clean)
        told = self._tell(ended=True, clean=clean)
        left = list(self._memory.candidates.values())
        self._refuse(left, "the attempt ended before its checkpoint was complete")
        return ScanResult(complete=told.complete, refused=(*told.refused, *self._told()))

    def forget(self, step: int) -> None:
        """A complete step could not be captured: think again about its files if they change."""
        self._memory.done_steps.discard(step)

    # ---------------------------------------------------------------------------------------------- looking

    def _watched(self, now: float) -> float:
        """Seconds since the last scan that count: a gap longer than planned was not watched."""
        passed = 0.0 if self._last_scan is None else now - self._last_scan
        self._last_scan = now
        return max(0.0, min(passed, self._rules.settle_s / 3))

    def _is_time_to_look(self, now: float) -> bool:
        period = _BLIND_LOOK_S if self._arrivals.is_blind else _FULL_LOOK_S
        return now - self._last_look >= period

    def _waits_for_others(self) -> bool:
        """Whether some step is finished but for files that may still follow: temporary ones grow without an event."""
        states = {candidate.state for candidate in self._memory.candidates.values()}
        return State.FINISHED in states

    def _look(self, now: float, news: News, watched_s: float) -> None:
        """List the folder; take in what is new or changed, drop what is gone."""
        self._last_look = now
        found = listing(self._folder, self._rules.patterns)
        for place in found.folders:
            self._arrivals.watch(place)
        memory = self._memory
        unchanged = memory.unfinished == found.unfinished
        memory.unfinished_still_s = memory.unfinished_still_s + watched_s if unchanged else 0.0
        memory.unfinished = found.unfinished
        for name in [name for name in memory.candidates if name not in found.files]:
            del memory.candidates[name]
        memory.settled = {name: known for name, known in memory.settled.items() if name in found.files}
        self._take_in(found)
        for change, name in news.changes:
            self._mark(change, name)
        memory.news += [(name, reason) for name, reason in found.refused.items() if name not in memory.odd]
        memory.odd = set(found.refused)

    def _take_in(self, found: Listing) -> None:
        """Make candidates of new and changed files; a refused step is thought of anew when one of its files changes."""
        memory, marker = self._memory, self._rules.done_marker
        for name, (match, identity) in found.files.items():
            if name not in memory.candidates and memory.settled.get(name) != identity:
                for other in memory.refused.pop(match.step, set()) | {name}:
                    memory.settled.pop(other, None)
        for name, (match, identity) in found.files.items():
            candidate = memory.candidates.get(name)
            if candidate is not None and candidate.identity != identity:
                candidate.changed(identity)
            elif candidate is None and name not in memory.settled and not (marker and marker.is_one(name, match.step)):
                memory.candidates[name] = Candidate(name=name, match=match, identity=identity)

    def _mark(self, change: Change, name: str) -> None:
        """Apply one report of the kernel's to the candidates it is about."""
        for candidate in self._memory.candidates.values():
            if change is Change.FOLDER_RENAMED_IN and candidate.name.startswith(f"{name}/"):
                candidate.renamed = candidate.sealed = True
            elif candidate.name == name:
                candidate.renamed = change is Change.RENAMED_IN
                candidate.sealed = False

    # ---------------------------------------------------------------------------------------------- judging

    def _advance(self, watched_s: float, writers: Writers, *, last_word: bool = False) -> None:
        """Look at each waiting file again, let time pass for it, and judge it."""
        for candidate in self._memory.candidates.values():
            now = identity_of(self._folder, candidate.name)
            if now is None:
                continue
            if now != candidate.identity:
                candidate.changed(now)
            else:
                candidate.passed(watched_s, writers)
            if candidate.state is State.WAITING:
                self._judge.judge(candidate, writers, last_word=last_word)

    def _tell(self, *, ended: bool = False, clean: bool = False) -> ScanResult:
        steps: dict[int, list[Candidate]] = {}
        for candidate in self._memory.candidates.values():
            steps.setdefault(candidate.match.step, []).append(candidate)
        complete: list[StepFiles] = []
        pending: list[int] = []
        for step, files in sorted(steps.items()):
            refusal = self._refusal(step, files)
            if refusal:
                self._refuse(files, refusal)
            elif all(file.state is State.FINISHED for file in files) and (clean or self._is_all(files, ended=ended)):
                complete.append(self._complete(step, files))
            else:
                pending.append(step)
        return ScanResult(complete=tuple(complete), pending=tuple(pending), refused=self._told())

    def _told(self) -> tuple[tuple[str, str], ...]:
        news, self._memory.news = self._memory.news, []
        return tuple(news)

    def _refusal(self, step: int, files: list[Candidate]) -> str:
        """Why the whole step cannot become a checkpoint any more."""
        if step in self._memory.done_steps:
            return f"step {step} was captured already: the file came later, or was written again"
        return next((f"{file.name}: {file.reason}" for file in files if file.state is State.REFUSED), "")

    def _refuse(self, files: list[Candidate], refusal: str) -> None:
        for file in files:
            self._memory.news.append((file.name, file.reason or refusal))
            self._memory.refused.setdefault(file.match.step, set()).add(file.name)
            self._settle(file.name)

    def _is_all(self, files: list[Candidate], *, ended: bool) -> bool:
        """Whether no other file of this step can follow on this node."""
        rules = self._rules
        if rules.patterns.has_rank and rules.local_ranks:
            return rules.local_ranks <= {file.match.rank for file in files}
        if all(file.sealed for file in files) or (len(files) == 1 and files[0].match.alone):
            return True
        patience = _PATIENCE if len(files) < self._memory.most_files and not ended else 1
        still_s = min(self._memory.unfinished_still_s, *(file.still_s for file in files))
        return still_s >= rules.settle_s * patience

    def _complete(self, step: int, files: list[Candidate]) -> StepFiles:
        self._memory.most_files = max(self._memory.most_files, len(files))
        self._memory.done_steps.add(step)
        for file in files:
            self._settle(file.name)
        found = (FoundFile(name=file.name, rank=file.match.rank, identity=file.identity) for file in files)
        return StepFiles(step=step, files=tuple(sorted(found, key=lambda file: file.name)))

    def _settle(self, name: str) -> None:
        """Think no more about a file, as long as it stays as it is."""
        self._memory.settled[name] = self._memory.candidates.pop(name).identity
