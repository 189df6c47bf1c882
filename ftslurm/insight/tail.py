"""Reading log files that grow: from the end, from where one stopped, and line by line.

By polling: the files lie on shared storage, and NFS sends no notifications.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 16


def last_lines(path: Path, lines: int | None) -> tuple[bytes, int]:
    """The last `lines` lines of a file (None: all of it), and the offset at which reading goes on; no file is empty.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            start = 0 if lines is None else _start_of_last(file, end, lines)
            file.seek(start)
            return file.read(end - start), end
    except FileNotFoundError:
        return b"", 0


def _start_of_last(file: object, end: int, lines: int) -> int:
    """Where the last lines begin; read backwards in blocks. A last line without its newline is a line."""
    from typing import IO, cast

    source = cast("IO[bytes]", file)
    position, left = end, lines
    seen_end = False
    while position > 0:
        size = min(BLOCK, position)
        position -= size
        source.seek(position)
        block = source.read(size)
        index = len(block)
        while (index := block.rfind(b"\n", 0, index)) >= 0:
            if not seen_end and position + index == end - 1:
                seen_end = True
                continue
            seen_end = True
            left -= 1
            if left <= 0:
                return position + index + 1
    return 0


@dataclass
class Growing:
    """A file that is followed; what is yielded are whole lines, and at the end what is left of one."""

    path: Path
    offset: int = 0
    rest: bytes = b""

    def read(self) -> list[bytes]:
        """The lines that have come since the last time, with their newlines.

        A file that has become shorter was written anew, and is read from its start.

        Raises:
            OSError: it cannot be read.
        """
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return []
        if size < self.offset:
            self.offset, self.rest = 0, b""
        if size == self.offset:
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        self.offset += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [line + b"\n" for line in lines]

    def flush(self) -> list[bytes]:
        """What is left of a last line that never got its newline."""
        rest, self.rest = self.rest, b""
        return [rest + b"\n"] if rest else []
