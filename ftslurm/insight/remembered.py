"""Where many runs stand, without reading their journals again: in memory, and from one command to the next in a file.

The file lies in the user's ftslurm folder, is the user's alone, and is only ever a shortcut. What it says of a run
counts while the run's journal has the same files, sizes and times of change; of a long journal that has grown only what
is new is read. Where it says nothing of a run that has ended, what the run itself has left counts in the same way
(`filed`).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from pathlib import Path
from typing import Any

from ftslurm.errors import FtslurmError
from ftslurm.insight import codec, filed, reading
from ftslurm.insight.reading import Reading, Stamp
from ftslurm.insight.summary import Summary
from ftslurm.paths import RunPaths, memory_folder

log = logging.getLogger(__name__)

LONG_BYTES = 1 << 18
"""Of a journal longer than this, also how it was read is kept; a shorter one is read anew within milliseconds."""

MOST_RUNS = 20_000
KEEP_EVERY_S = 60.0
"""A display that goes on for days shall not write into a home on NFS all the time."""


class Cache:
    """Summaries of many runs, read again only where a journal has changed."""

    def __init__(self, disk: Disk | None = None) -> None:
        """`disk` is where they outlive this process; without one they do not."""
        self._disk = disk
        self._known: dict[Path, tuple[Stamp, Summary]] = {}
        self._readings: dict[Path, Reading] = {}
        self._fresh: set[Path] = set()
        self._next = float("-inf")

    def of(self, paths: RunPaths) -> Summary:
        """Return where a run stands now.

        Raises:
            DataDamaged: its journal has a line that cannot be read.
            StorageError: its journal cannot be read.
        """
        # Before the journal is read: what is written meanwhile is read the next time.
        stamp = reading.stamp(paths)
        known = self._known.get(paths.root) or (self._disk.summary(paths.root) if self._disk else None)
        if known is None or known[0] != stamp:
            left = filed.left_by(paths)
            known = left if left is not None and left[0] == stamp else (stamp, self._read(paths))
            self._fresh.add(paths.root)
        self._known[paths.root] = known
        return known[1]

    def _read(self, paths: RunPaths) -> Summary:
        mine = self._readings.pop(paths.root, None) or (self._disk.reading(paths.root) if self._disk else None)
        found = (mine := mine or Reading()).catch_up(paths)
        if not found.over:
            self._readings[paths.root] = mine
        return found

    def keep(self) -> None:
        """Write down what was read; where that is not possible it is read again the next time."""
        if self._disk is None or not self._fresh or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + KEEP_EVERY_S
        try:
            self._disk.keep({root: self._known[root] for root in self._fresh})
            for root in self._fresh & self._readings.keys():
                self._disk.keep_reading(root, self._readings[root])
        except (OSError, FtslurmError) as error:
            log.info("what was read of the journals is not kept: %s", error)
        self._fresh.clear()


class Disk:
    """The file, read once, and beside it a file for each long journal of a run that has not ended."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or memory_folder()
        self._file = self._folder / "summaries.json"

    def summary(self, root: Path) -> tuple[Stamp, Summary] | None:
        """What was known of a run, and with which stamp."""
        record = self._runs.get(str(root))
        return None if record is None else filed.stamped(record, self._file)

    def reading(self, root: Path) -> Reading | None:
        """How far a long journal was read."""
        record = filed.loaded(self._reading_file(root))
        if record.get("root") != str(root):
            return None
        try:
            return codec.build(Reading, record.get("reading"))
        except ValueError as error:
            log.info("how far the journal of %s was read is not known: %s", root, error)
            return None

    def keep(self, fresh: dict[Path, tuple[Stamp, Summary]]) -> None:
        """Add what is new to what others have written meanwhile. Raises OSError."""
        runs = self._all() | {str(root): [stamp, codec.plain(found)] for root, (stamp, found) in fresh.items()}
        if len(runs) > MOST_RUNS:
            runs = {root: each for root, each in runs.items() if Path(root).is_dir()}
        self._write(self._file, {"runs": runs})
        for root, (_, found) in fresh.items():
            if found.over:
                self._reading_file(root).unlink(missing_ok=True)

    def keep_reading(self, root: Path, mine: Reading) -> None:
        """Remember how far a long journal was read. Raises OSError."""
        if mine.size_bytes >= LONG_BYTES:
            self._write(self._reading_file(root), {"root": str(root), "reading": codec.plain(mine)})

    @functools.cached_property
    def _runs(self) -> dict[str, Any]:
        return self._all()

    def _all(self) -> dict[str, Any]:
        found = filed.loaded(self._file).get("runs")
        return found if isinstance(found, dict) else {}

    def _reading_file(self, root: Path) -> Path:
        return self._folder / f"reading-{hashlib.blake2b(bytes(root), digest_size=12).hexdigest()}.json"

    def _write(self, path: Path, record: dict[str, Any]) -> None:
        from ftslurm.runtime.keys import private_folder

        private_folder(self._folder)
        filed.write(path, record)
