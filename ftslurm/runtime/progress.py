"""The agent's eye on the progress of its ranks: their beats, their log, their files; a digest of it for the supervisor.

Sources, the best that a rank has: `ftslurm.training.beat` (a small file that the rank maps into memory), a pattern in
what it prints, files that change. A thread of its own reads them, because reading can be slow; files on shared storage
have one more, because they can hang. Digests are rare (at most two a second, fewer in large worlds) and say for how
long each rank has been silent *by this node's clock*: a digest that comes late makes nobody silent.

A rank that is silent and writes much (proc_pid_io(5)) is taken to save, whether it has said so or not. When this
process itself stood still, nobody is to blame for it.
"""

from __future__ import annotations

import glob
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftslurm.beats import BEAT, HAS_BUSY, HAS_LOSS, Interval, intervals
from ftslurm.core.progress import INIT, STEP, WARM_UP
from ftslurm.paths import PRIVATE_FOLDER, LocalPaths, rank_log_name
from ftslurm.runtime.ranks import LocalRank, is_alive
from ftslurm.runtime.spec import ProgressSpec

POLL_S, CALM_S = 0.25, 2.0
"""How often a rank's progress is looked at, and how often a rank that shows none."""
DIGEST_S, SLOWEST_S, RANKS_PER_S = 0.5, 5.0, 2000
STOOD_STILL_S = 2.0
LOOK_S = 3.0
WROTE = 2**20
WRITING_S = 5.0
LOG_BYTES = 2**18
LOSSES = 64


@dataclass
class RankState:
    """What is known of one rank; `taken_s` and the rest below it are of the time since the last digest."""

    rank: int
    changed: float
    pid: int = 0
    source: str = ""
    seen: int = 0
    beats: int = 0
    step: int = -1
    phase: str = INIT
    log_offset: int = 0
    wrote: int | None = None
    writing_until: float = 0.0
    taken_s: dict[str, float] = field(default_factory=dict)
    own_s: float = 0.0
    own_steps: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)

    def take(self, found: Sequence[Interval], now: float) -> None:
        """Take what the rank has told since the last look."""
        for each in found:
            told = bool(each.flags & BEAT)
            self.beats += told
            if told and each.spent == STEP:
                self.steps(1, each.length_s, each.busy_s if each.flags & HAS_BUSY else each.length_s)
            elif each.spent not in (STEP, INIT):
                self._longest(each.spent, each.length_s)
            if each.flags & HAS_LOSS:
                self.losses.append((each.step, each.loss))
            self.step, self.phase = each.step, each.now
        if found:
            self.source, self.changed = "beat", now
        bad = [pair for pair in self.losses[:-LOSSES] if not math.isfinite(pair[1])]
        self.losses = bad[:1] + self.losses[-LOSSES:]

    def steps(self, count: int, length_s: float, own_s: float) -> None:
        """Count steps of this length; the first ones teach nothing."""
        if self.beats > WARM_UP:
            self._longest(STEP, length_s)
            self.own_s += own_s * count
            self.own_steps += count

    def _longest(self, phase: str, length_s: float) -> None:
        self.taken_s[phase] = max(self.taken_s.get(phase, 0.0), length_s)

    def row(self, now: float) -> list[Any]:
        """Return the rank's part of a digest, and forget what it says of the time since the last one."""
        phase = "save" if self.phase == STEP and now < self.writing_until else self.phase
        own = [round(self.own_s, 6), self.own_steps]
        age_s = round(now - self.changed, 3)
        row = [self.rank, self.source, self.beats, self.step, phase, age_s, self.taken_s, own]
        losses = [[step, str(loss)] for step, loss in self.losses]
        self.taken_s, self.own_s, self.own_steps, self.losses = {}, 0.0, 0, []
        return [*row, losses]


@dataclass
class _Watched:
    """The ranks of one attempt."""

    attempt: int
    folder: Path
    digest_s: float
    states: dict[int, RankState] = field(default_factory=dict)


class ProgressReader:
    """Reads the progress of the ranks of this node, and tells it."""

    def __init__(
        self,
        spec: ProgressSpec,
        local: LocalPaths,
        rows: Callable[[int], list[LocalRank]],
        tell: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`rows` are the ranks of an attempt, `tell` takes digests; both from any thread."""
        self._pattern = re.compile(spec.log_pattern) if spec.log_pattern else None
        self._local, self._rows, self._tell = local, rows, tell
        self._files = FileWatch(spec.files)
        self._watched: _Watched | None = None
        self._told = 0.0
        self._looked = time.monotonic()

    def start(self) -> None:
        """Begin to read."""
        self._files.start()
        threading.Thread(target=self._run, name="progress", daemon=True).start()

    def begin(self, attempt: int, world_size: int) -> str:
        """The ranks of an attempt may begin: return the folder into which they tell their progress."""
        folder = self._local.progress(attempt)
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        if self._watched is None or self._watched.attempt != attempt:
            digest_s = min(max(world_size / RANKS_PER_S, DIGEST_S), SLOWEST_S)
            self._watched = _Watched(attempt, folder, digest_s)
        return str(folder)

    def end(self, attempt: int) -> None:
        """Nothing of the attempt is left."""
        if self._watched is not None and self._watched.attempt <= attempt:
            self._watched = None

    def pids(self, attempt: int) -> dict[int, int]:
        """Return the processes that beat, by rank."""
        watched = self._watched
        if watched is None or watched.attempt != attempt:
            return {}
        return {state.rank: state.pid for state in list(watched.states.values()) if state.pid}

    def steps(self) -> tuple[int | None, dict[int, int]]:
        """Return the attempt that is watched and how far those of its ranks are that show it."""
        watched = self._watched
        if watched is None:
            return None, {}
        return watched.attempt, {rank: state.step for rank, state in watched.states.copy().items() if state.step >= 0}

    # ------------------------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            pause_s = self._pause_s()
            time.sleep(pause_s)
            now = time.monotonic()
            stood_s, self._looked = now - self._looked - pause_s, now
            watched = self._watched
            if watched is not None:
                self._look(watched, now, stood_s)

    def _pause_s(self) -> float:
        """A program that shows no progress costs nothing: it is looked at now and then for the first sign of it."""
        watched = self._watched
        shows = watched is not None and any(state.source for state in list(watched.states.values()))
        return POLL_S if shows else CALM_S

    def _look(self, watched: _Watched, now: float, stood_s: float) -> None:
        rows = {rank: row for row in self._rows(watched.attempt) if row.released for rank in row.ranks}
        states = watched.states
        for rank in rows.keys() - states.keys():
            states[rank] = RankState(rank, now)
        if stood_s > STOOD_STILL_S:
            for state in states.values():
                state.changed = min(state.changed + stood_s, now)
        _read_beats(watched, now)
        for state in states.values():
            self._read_rest(watched, state, rows.get(state.rank), now)
        told = [state for state in states.values() if not _is_over(state, rows.get(state.rank))]
        pause_s = watched.digest_s if any(state.source for state in told) else SLOWEST_S
        if told and now - self._told >= pause_s:
            self._told = now
            self._tell({"t": "progress", "attempt": watched.attempt, "ranks": [state.row(now) for state in told]})

    def _read_rest(self, watched: _Watched, state: RankState, row: LocalRank | None, now: float) -> None:
        """What is known of a rank that does not beat, and what it writes while it is silent."""
        if state.source in ("", "pattern") and self._pattern is not None:
            self._read_log(watched, state, self._pattern, now)
        changed = self._files.changed
        if state.source in ("", "files") and changed is not None and changed > state.changed:
            state.source, state.phase, state.beats, state.changed = "files", STEP, state.beats + 1, changed
        if now - state.changed < LOOK_S:
            state.wrote = None
            return
        wrote = _written(state.pid or (processes_of(row).get(state.rank, 0) if row else 0))
        if state.wrote is None or wrote < state.wrote:
            state.wrote = wrote
        elif wrote - state.wrote >= WROTE:
            state.wrote, state.writing_until = wrote, now + WRITING_S

    def _read_log(self, watched: _Watched, state: RankState, pattern: re.Pattern[str], now: float) -> None:
        path = self._local.spool(watched.attempt) / rank_log_name(state.rank)
        try:
            with path.open("rb") as file:
                start = max(state.log_offset, file.seek(0, os.SEEK_END) - LOG_BYTES)
                file.seek(start)
                data = file.read(LOG_BYTES)
        except OSError:
            return  # it has printed nothing yet
        whole = data.rfind(b"\n") + 1
        state.log_offset = start + whole
        steps = [_number(found["step"]) for found in pattern.finditer(data[:whole].decode("utf-8", "replace"))]
        if steps and steps[-1] != state.step:
            state.beats += len(steps)
            each_s = (now - state.changed) / len(steps)
            state.steps(len(steps), each_s, each_s)
            state.source, state.phase, state.step, state.changed = "pattern", STEP, steps[-1], now


def _read_beats(watched: _Watched, now: float) -> None:
    """A rank's file is that of the process that began to beat first, while it lives."""
    for path in sorted(watched.folder.glob("[0-9]*-[0-9]*")):
        rank, pid = (_number(word) for word in path.name.split("-"))
        state = watched.states.setdefault(rank, RankState(rank, now))
        if state.pid and state.pid != pid and is_alive(state.pid, 0):
            continue
        if state.pid != pid and (state.pid == 0 or is_alive(pid, 0)):
            state.pid, state.seen = pid, 0
        if state.pid == pid:
            state.seen, found = intervals(_content(path), state.seen)
            state.take(found, now)


class FileWatch:
    """Knows when the newest of some files was changed. Looks from a thread of its own: shared storage may hang."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = tuple(patterns)
        self._newest = 0.0
        self.changed: float | None = None

    def start(self) -> None:
        """Begin to look, if there is something to look for."""
        if self._patterns:
            threading.Thread(target=self._run, name="progress-files", daemon=True).start()

    def _run(self) -> None:
        while True:
            paths = [path for pattern in self._patterns for path in glob.glob(pattern)]  # noqa: PTH207 - may be absolute
            newest = max(map(_mtime, paths), default=0.0)
            if newest > self._newest:
                self.changed = time.monotonic() if self._newest else self.changed
                self._newest = newest
            time.sleep(LOOK_S)


def _number(text: str) -> int:
    """The number that these digits are, whatever stands between them."""
    return int("".join(filter(str.isdecimal, text or "")) or 0)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # the attempt is being tidied up


def _mtime(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return 0.0


def _is_over(state: RankState, row: LocalRank | None) -> bool:
    if row is None:
        return not is_alive(state.pid, 0)
    worker = state.pid or row.workers.get(state.rank, 0)
    return row.done or (row.starts_ranks and worker > 0 and not is_alive(worker, 0))


def processes_of(row: LocalRank) -> dict[int, int]:
    """The programs of ranks: what the wrapper has started first, where the kernel says so (CONFIG_PROC_CHILDREN).

    Where that is torchrun, they are what torchrun has started; itself before that.
    """
    known = dict(row.workers)
    if known:
        return {rank: pid for rank, pid in known.items() if rank not in row.ends}
    try:
        words = Path(f"/proc/{row.pid}/task/{row.pid}/children").read_text().split()
    except OSError:
        return {}
    return {row.rank: int(words[0])} if words else {}


def _written(pid: int) -> int:
    """How many bytes a process has written so far; 0 where nobody may know."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("wchar:")), 0)
