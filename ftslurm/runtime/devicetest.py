"""Runs the compute test on GPUs under the ranks' Python, because torch is there, and only while no rank needs them.

The test takes memory of the GPUs. So it is killed in the moment in which ranks begin, and is not run beside them.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import which

KILL_S = 2.0


class Unanswered(Exception):
    """A probe could not find out what it was asked for; the text says why."""


class DeviceTest:
    """The one test that may run; methods may be called from any thread."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._lock = threading.Lock()
        self._free = True
        self._child: subprocess.Popen[str] | None = None

    def allow(self) -> None:
        """The GPUs are free."""
        with self._lock:
            self._free = True

    def stop(self) -> None:
        """The GPUs are needed."""
        with self._lock:
            self._free = False
            if self._child is not None:
                self._child.kill()

    def output(self, argv: Sequence[str], deadline_s: float) -> str:
        """Return what the test prints; nothing where the GPUs are needed.

        Raises:
            Unanswered: it failed, or was not ready in time; it is killed then.
        """
        with self._lock:
            if not self._free:
                return ""
            self._child = child = self._start(argv)
        try:
            out, errors = child.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            child.kill()
            with suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=KILL_S)
            raise Unanswered(f"{argv[0]} was not ready within {deadline_s:.0f} s") from None
        with self._lock:
            self._child = None
            if not self._free:
                return ""
        if child.returncode:
            last = (errors.strip().splitlines() or [""])[-1]
            raise Unanswered(f"{argv[0]} ended with code {child.returncode}: {last[:200]}")
        return out

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def torch_python(program: str) -> str:
    """Return the Python that runs the ranks, by the program that starts them; empty where that cannot be told."""
    found = which(program) if program else None
    if found is None:
        return ""
    if Path(found).name.startswith("python"):
        return found
    beside = Path(found).with_name("python")
    return str(beside) if os.access(beside, os.X_OK) else ""
