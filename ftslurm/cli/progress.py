"""What somebody sees who waits at a terminal: a spinner with a count, or a bar where it is known how much there is.

    with waiting("reading journals", quiet=as_json) as wait:
        for done, path in enumerate(paths):
            wait(done, len(paths))

It appears on stderr after a second, is gone when the work is done or interrupted, and is not there at all for programs:
without a terminal, with --json. While it is there, what is printed on stderr appears above it; what is printed on
a terminal's stdout belongs into `wait.aside()`.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

AFTER_S = 1.0


@contextmanager
def waiting(
    what: str, *, quiet: bool = False, unit: Callable[[int], str] | None = None, interrupted: str = ""
) -> Iterator[Waiting]:
    """Show that `what` is being done while it takes longer than a second.

    Args:
        what: a few words.
        quiet: show nothing.
        unit: how a quantity is written of which also the speed is of interest, as bytes are.
        interrupted: what there is to say after Ctrl-C: that something goes on without us.
    """
    shown = Waiting(what, unit, wanted=not quiet and sys.stderr.isatty())
    try:
        yield shown
    except KeyboardInterrupt:
        shown.close()
        if interrupted:
            click.echo(f"ftslurm: {interrupted}", err=True)
        raise
    finally:
        shown.close()


class Waiting:
    """The display of one wait. Call it with how much is done, and of how much, if that is known."""

    def __init__(self, what: str, unit: Callable[[int], str] | None = None, *, wanted: bool) -> None:
        """As `waiting`; `wanted`: show it at all."""
        self._what, self._done, self._total = what, 0, 0
        self._unit = unit
        self._lock = threading.Lock()
        self._shown: tuple[Progress, TaskID] | None = None
        self._over = not wanted
        self._began = time.monotonic()
        self._timer = threading.Timer(AFTER_S, self._show)
        self._timer.daemon = True
        if wanted:
            self._timer.start()

    def __call__(self, done: int, total: int = 0) -> None:
        """`done` of `total` are done; without a total they are counted only."""
        self._done, self._total = done, total
        self._update()

    def say(self, what: str) -> None:
        """Something else is being done now."""
        self._what, self._done, self._total = what, 0, 0
        self._update()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Make room for something that is printed."""
        with self._lock:
            shown = self._shown
            if shown is not None:
                shown[0].stop()
            try:
                yield
            finally:
                if shown is not None and not self._over:
                    shown[0].start()

    def close(self) -> None:
        """Take the display away."""
        self._timer.cancel()
        with self._lock:
            self._over = True
            if self._shown is not None:
                self._shown[0].stop()

    def _show(self) -> None:
        """The display, from now on; in a thread of its own, for who works does not look at the clock."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        # A signal that is delivered to this thread, or to rich's, would not end the read or sleep of who works.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        console = Console(stderr=True)
        spinner = SpinnerColumn("dots" if console.encoding.startswith("utf") else "line")
        bar = BarColumn(bar_width=20)
        texts = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in ("what", "count", "time")]
        # A stdout that is redirected would come out on stderr, whatever it was connected to.
        progress = Progress(spinner, texts[0], bar, *texts[1:], console=console, transient=True, redirect_stdout=False)
        with self._lock:
            if self._over:
                return
            task = progress.add_task("", **self._fields())
            self._shown = progress, task
            progress.start()
            # Nobody would show it again after a SIGTERM.
            console.show_cursor(show=True)
        self._tick()

    def _tick(self) -> None:
        """Let the time go on while nothing is counted."""
        while not self._over:
            self._update()
            time.sleep(0.5)

    def _update(self) -> None:
        if self._shown is not None:
            progress, task = self._shown
            progress.update(task, **self._fields())

    def _fields(self) -> dict[str, Any]:
        from ftslurm.insight.text import clock, visible

        passed = time.monotonic() - self._began
        total = {"total": self._total, "completed": self._done} if self._total else {"total": None}
        return {"what": visible(self._what), "count": self._count(passed), "time": clock(passed), **total}

    def _count(self, passed: float) -> str:
        """`31 %, 310 of 1000`, of bytes also how fast; nothing where nothing is counted."""
        if not self._done:
            return ""
        told = self._unit or str
        part = f"{100 * self._done // self._total} %, " if self._total else ""
        whole = f" of {told(self._total)}" if self._total else ""
        speed = f", {self._unit(int(self._done / passed))}/s" if self._unit and passed else ""
        return f"{part}{told(self._done)}{whole}{speed}"
