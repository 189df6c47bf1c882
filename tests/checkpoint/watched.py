"""A watched folder with a clock that the test turns."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ftslurm.checkpoint.watch import ScanResult, Watcher
from ftslurm.checkpoint.writers import Writers

SETTLE_S = 3.0
WELL = Writers(alive=frozenset({os.getpid()}))


@dataclass
class Watched:
    """A watcher with a clock that the test turns: one scan every half second."""

    watcher: Watcher
    folder: Path
    now: float = 100.0

    def scan(self, writers: Writers = WELL, after_s: float = 0.5) -> ScanResult:
        self.now += after_s
        return self.watcher.scan(self.now, writers)

    def scan_for(self, seconds: float, writers: Writers = WELL) -> tuple[list[int], dict[str, str]]:
        """The steps that became complete, and what was refused, in so many seconds."""
        steps: list[int] = []
        refused: dict[str, str] = {}
        for _ in range(round(seconds / 0.5)):
            found = self.scan(writers)
            steps += [each.step for each in found.complete]
            refused |= dict(found.refused)
        return steps, refused

    def write(self, name: str, content: bytes = b"content") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def rename_in(self, name: str, content: bytes = b"content") -> None:
        self.write("on-its-way.tmp", content).rename(self.folder / name)


def zip_bytes() -> bytes:
    """A small sound zip, as torch.save and numpy write."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data/0", b"x" * 100_000)
    return out.getvalue()
