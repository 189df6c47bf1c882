"""A terminal that is painted on: its other screen, the keys that are pressed, its size; and all of it given back.

Only lines that have changed are sent, each in its place: over a slow line nothing flickers, and a display of which only
the ages change costs a few hundred bytes each time. xterm's control sequences; termios(3), signal(7).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
AGAIN = "\x0c"
"""Ctrl-L: somebody else has written on the terminal."""


def difference(before: Sequence[str], after: Sequence[str]) -> str:
    """What turns the lines of one picture into those of another; lines are printed from the top of the screen."""
    sent = []
    for number in range(max(len(before), len(after))):
        line = after[number] if number < len(after) else ""
        if number >= len(before) or before[number] != line:
            sent.append(f"\x1b[{number + 1};1H{line}\x1b[0m\x1b[K")
    return "".join(sent)


def can_be_painted() -> bool:
    """Whether stdout is a terminal that understands more than lines."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in {"", "dumb", "unknown"}


class Screen:
    """The terminal between entering and leaving."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._size = (0, 0)
        self._modes: list[Any] | None = None
        self._keys = sys.stdin.isatty()
        self._before: dict[int, Any] = {}
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = -1

    def __enter__(self) -> Self:
        self._before = {
            signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda *_: None),
            signal.SIGTSTP: signal.signal(signal.SIGTSTP, self._suspend),
        }
        # A handler alone does not end a wait (PEP 475).
        self._wakeup = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        # A terminal that is gone needs nothing back.
        with contextlib.suppress(OSError, termios.error):
            self._give_back()

    def size(self) -> tuple[int, int]:
        """(columns, rows), as they are now."""
        return os.get_terminal_size(sys.stdout.fileno())

    def paint(self, lines: Sequence[str]) -> None:
        """Show these lines, and nothing else."""
        size = self.size()
        if size != self._size:
            self._size, self._shown = size, []
            sys.stdout.write("\x1b[2J")
        sys.stdout.write(difference(self._shown, lines))
        sys.stdout.flush()
        self._shown = list(lines)

    def wake(self) -> None:
        """End a wait; from any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"\0")

    def wait(self, seconds: float) -> str:
        """Wait until time is up, a key is pressed, the size changes or somebody wakes us; the keys, if any."""
        sources = [self._woken, *([sys.stdin.fileno()] if self._keys else [])]
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._woken in ready:
            os.read(self._woken, 4096)
        if len(sources) < 2 or sources[1] not in ready:
            return ""
        pressed = os.read(sources[1], 64)
        # Nobody sits there any more.
        self._keys = bool(pressed)
        if AGAIN.encode() in pressed:
            self._size = (0, 0)
        return pressed.decode("ascii", "replace")

    def _take(self) -> None:
        if self._keys:
            self._modes = termios.tcgetattr(sys.stdin.fileno())
            tty.setcbreak(sys.stdin.fileno(), termios.TCSADRAIN)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()
        self._size = (0, 0)

    def _give_back(self) -> None:
        if self._modes is not None:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._modes)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal as it was, and we paint anew when we go on."""
        del number, frame
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
