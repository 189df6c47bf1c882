"""Programs on a terminal of their own, as a person would see them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator

LIMIT_S = 60.0


class Terminal:
    """A program, and everything that it has written on its terminal. Streams that are given are its own instead."""

    def __init__(self, argv: list[str], size: tuple[int, int], streams: dict[str, int]) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(size)
        self.modes = termios.tcgetattr(self.slave)
        environ = {**os.environ, "TERM": "xterm-256color"}
        if streams:
            on = dict.fromkeys(("stdin", "stdout", "stderr"), self.slave) | streams
            self.process = subprocess.Popen(argv, env=environ, start_new_session=True, **on)
        else:
            # A session takes the terminal that its first process opens for its own.
            opened = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(self.slave), *argv]
            self.process = subprocess.Popen(opened, env=environ, start_new_session=True)
        self.written = ""

    def resize(self, size: tuple[int, int]) -> None:
        """Give the window another size, in columns and rows; the program hears of it."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self.master, keys.encode())

    def enter(self) -> None:
        """Write a line into a pipe that is the program's stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def read(self, what: str, enough: Callable[[str], object] | None = None) -> str:
        """Everything that was written since the last time, as soon as it is enough: as soon as it has `what`."""
        fresh, deadline = "", time.monotonic() + LIMIT_S
        while not (enough(fresh) if enough else what in fresh):
            assert time.monotonic() < deadline, f"{what} did not come in {fresh!r}"
            fresh += self._more(0.2)
        return fresh

    def end(self) -> int:
        """The exit code, when it has ended."""
        deadline = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on: {self.written!r}"
            self._more(0.1)
        while self._more(0.0):
            pass
        return self.process.returncode

    def _more(self, seconds: float) -> str:
        if not select.select([self.master], [], [], seconds)[0]:
            return ""
        fresh = os.read(self.master, 1 << 16).decode()
        self.written += fresh
        return fresh

    @property
    def shown(self) -> str:
        """Without what a terminal acts on."""
        return without_sequences(self.written)


def without_sequences(text: str) -> str:
    """`text` without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@contextlib.contextmanager
def terminal(argv: list[str], size: tuple[int, int] = (100, 24), **streams: int) -> Iterator[Terminal]:
    """A program on a terminal; it is ended in any case."""
    on = Terminal(argv, size, streams)
    try:
        yield on
    finally:
        on.process.kill()
        on.process.communicate(timeout=LIMIT_S)
        os.close(on.master)
        os.close(on.slave)
