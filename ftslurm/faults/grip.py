"""The hand on a node as it is held from here: a child process whose stdin is open as long as its deed shall last."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.insight.text import visible

FIRST_S = 30.0
END_S = 20.0
WORDS = 600


class Held:
    """A hand that was sent."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str] | None) -> None:
        """Start it.

        Raises:
            ServiceUnavailable: its command cannot be run.
        """
        self._argv = list(argv)
        self._words = ""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        try:
            self._child = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=dict(environ) if environ is not None else None,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise ServiceUnavailable(f"{argv[0]} cannot be run: {error.strerror}") from error
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="hand", daemon=True).start()

    def done(self) -> dict[str, Any]:
        """What it says that it has done.

        Raises:
            UsageError: there was nobody to do it to.
            ServiceUnavailable: it could not, or does not answer; it is gone then.
        """
        try:
            told = self._next("at", FIRST_S)
        except BaseException:
            self.end()
            raise
        if told is None:
            self.end()
            raise UsageError(self._why())
        return told

    def let_go(self) -> dict[str, Any] | None:
        """Let it undo its deed and end; returns when it did, None where it had ended before.

        Raises:
            ServiceUnavailable: it does not end.
        """
        if self._child.stdin is not None:
            with suppress(OSError):  # it has gone
                self._child.stdin.close()
        try:
            return self._next("undone_at", END_S)
        finally:
            self.end()

    def end(self) -> None:
        """Be sure that the child is gone, by force if it has to be."""
        if self._child.stdin is not None:
            with suppress(OSError):
                self._child.stdin.close()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait(END_S)
        if not self._errors.closed:
            self._errors.seek(0)
            self._words = self._errors.read().decode("utf-8", "replace").strip()
            self._errors.close()

    def _read(self) -> None:
        assert self._child.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        for line in self._child.stdout:
            with suppress(ValueError):  # a site may greet every step
                told = json.loads(line)
                if isinstance(told, dict):
                    self._lines.put(told)
        self._child.stdout.close()
        self._lines.put(None)

    def _next(self, key: str, patience_s: float) -> dict[str, Any] | None:
        while True:
            try:
                told = self._lines.get(timeout=patience_s)
            except queue.Empty:
                raise ServiceUnavailable(f"{self._argv[0]}: no word of {key} within {patience_s:g} s") from None
            if told is None or key in told:
                return told

    def _why(self) -> str:
        return visible(self._words[-WORDS:]) or f"{self._argv[0]} ended with exit code {self._child.returncode}"
