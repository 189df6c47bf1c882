"""Moves what ranks print from the node's spool to the run's folder on shared storage, and rank 0's to the supervisor.

The ranks write to node-local files, so that a hanging or full shared storage never stops a print. This thread follows
the files, appends what is new to one shared file a rank, and simply tries again later when that fails: the spool is
the buffer, and nothing is lost while the node lives. It goes on where an agent before it stopped: at the shared file's
size; the supervisor has been told about as much.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER, LocalPaths, RunPaths, rank_log_name
from ftslurm.runtime.logs import event

log = logging.getLogger(__name__)

BLOCK = 1 << 20
PAUSE_S = 0.25


@dataclass
class _File:
    source: Path
    target: Path
    attempt: int
    rank: int
    tells: bool = False
    done: int = -1
    told: int | None = 0


class Shipper:
    """Follows the spool of one node."""

    def __init__(self, paths: RunPaths, local: LocalPaths, tell: Callable[[int, int, bytes], None]) -> None:
        """`tell(attempt, rank, data)` gets what rank 0 prints, as it appears."""
        self._paths = paths
        self._local = local
        self._tell = tell
        self._files: dict[Path, _File] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipping", daemon=True)
        self.error = ""

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def follow(self, attempt: int, rank: int, *, adopted: bool = False) -> Path:
        """Return the file on this node that the rank is to write to, and follow it from now on.

        One that is `adopted` writes already: an agent before this one has let it go.
        """
        folder = self._local.spool(attempt)
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        source = folder / rank_log_name(rank)
        target, notes = self._paths.rank_log(attempt, rank), self._paths.rank_notes(attempt, rank)
        for here, there in ((source, target), (source.with_name(notes.name), notes)):
            file = _File(source=here, target=there, attempt=attempt, rank=rank, tells=rank == 0 and here == source)
            file.told = None if adopted else 0
            with self._lock:
                self._files.setdefault(here, file)
        return source

    def finish(self, timeout_s: float) -> bool:
        """Ship what is left; False when shared storage did not take it in time."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            self._round()
        while self._round():
            time.sleep(PAUSE_S)

    def _round(self) -> bool:
        """Ship what is new; True while something is left."""
        with self._lock:
            files = list(self._files.values())
        left = [self._ship(each) for each in files]
        return any(left)

    def _ship(self, each: _File) -> bool:
        try:
            size = each.source.stat().st_size
        except FileNotFoundError:
            return False
        try:
            if each.tells:
                self._forward(each, size)
            if size == each.done:
                return False
            self._append(each)
        except OSError as error:
            if str(error) != self.error:
                about = event("ship", well=False, rank=each.rank, attempt=each.attempt)
                text = "the output of rank %d cannot be copied to %s yet: %s"
                log.warning(text, each.rank, each.target, error, extra=about)
            self.error = str(error)
            return True
        self.error = ""
        return each.done < size

    def _forward(self, each: _File, size: int) -> None:
        if each.told is None:
            each.told = each.target.stat().st_size if each.target.exists() else 0
        if size <= each.told:
            return
        with each.source.open("rb") as source:
            source.seek(each.told)
            data = source.read(BLOCK)
        self._tell(each.attempt, each.rank, data)
        each.told += len(data)

    def _append(self, each: _File) -> None:
        self._paths.attempt_logs(each.attempt).mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        target = os.open(each.target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_FILE)
        try:
            start = os.fstat(target).st_size
            with each.source.open("rb") as source:
                source.seek(start)
                while data := source.read(BLOCK):
                    start += os.pwrite(target, data, start)
            each.done = start
        finally:
            os.close(target)
