"""Reading log files that grow: the last lines, and then what is new, again and again.

By polling: the files lie on shared storage, and NFS sends no notifications.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 16
CHUNK = 1 << 20


def start_of_last(path: Path, lines: int) -> int:
    """Where the last `lines` lines of a file begin; a last line without its newline is a line. No file: 0.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            end = position = file.seek(0, 2)
            data = b""
            while position > 0 and data.count(b"\n") <= lines:
                size = min(BLOCK, position)
                position -= size
                file.seek(position)
                data = file.read(size) + data
    except FileNotFoundError:
        return 0
    parts = data.removesuffix(b"\n").split(b"\n") if data else []
    kept = parts[len(parts) - lines :] if 0 < lines < len(parts) else parts if lines else []
    return end - sum(len(part) + 1 for part in kept) + (not data.endswith(b"\n") and bool(kept))


@dataclass
class Growing:
    """A file that is followed."""

    path: Path
    offset: int = 0

    def chunks(self) -> Iterator[bytes]:
        """What has come since the last time. A file that has become shorter was written anew, and starts again.

        Raises:
            OSError: it cannot be read.
        """
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return
        if size < self.offset:
            self.offset = 0
        if size == self.offset:
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while data := file.read(CHUNK):
                self.offset += len(data)
                yield data


@dataclass
class Lines:
    """Puts chunks together to whole lines."""

    rest: bytes = b""

    def take(self, chunk: bytes) -> list[bytes]:
        """The lines that are whole now, without their newlines."""
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        return whole

    def end(self) -> list[bytes]:
        """What is left of a line that never got its newline."""
        rest, self.rest = self.rest, b""
        return [rest] if rest else []
