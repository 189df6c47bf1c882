"""The parent of a supervisor: starts it, starts it again when it dies, and returns only when the run has ended.

Where another host has taken the run over, it waits until the journal says that the run has ended, and then returns: the
job ends without going through the queue once more.

When a batch script returns, Slurm ends the job and every step in it and calls it COMPLETED (M23); so nothing but the
run's own word makes this process return. The supervisor says that word through a pipe, because shared storage may
hang.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ftslurm import journal
from ftslurm.core.actions import EndRun
from ftslurm.core.events import ENDED
from ftslurm.errors import FtslurmError
from ftslurm.journal import Entry
from ftslurm.paths import RunPaths
from ftslurm.runtime.logs import event

log = logging.getLogger(__name__)

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGUSR1, signal.SIGHUP)
REST_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
HEALTHY_S = 60.0
PARK_POLL_S = 1.0
SETTLED_S = 60.0


class Parent:
    """Keeps one supervisor alive."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """`arguments` are those of `ftslurm.runtime.serve`."""
        self._arguments = tuple(arguments)
        self._child: subprocess.Popen[bytes] | None = None
        self._pending: int | None = None

    def run(self) -> int:
        """Return the run's exit code once it has ended; never before."""
        for number in FORWARDED:
            signal.signal(number, self._forward)
        crashes = 0
        while True:
            started = time.monotonic()
            word = self._once()
            if word is not None:
                log.info("the supervisor says %s", word)
                return self._follow(word)
            crashes = 0 if time.monotonic() - started > HEALTHY_S else crashes + 1
            rest_s = REST_S[min(crashes, len(REST_S) - 1)]
            died = self._child.returncode if self._child else None
            words = f"the supervisor died ({died}); it is started again in {rest_s:g} s"
            log.error(words, extra=event("supervisor_died", well=False, took_s=time.monotonic() - started))
            print(f"[ftslurm] {words}", flush=True)
            time.sleep(rest_s)

    def _once(self) -> dict[str, Any] | None:
        """Run a supervisor to its end; None when it died without a word."""
        reader, writer = os.pipe()
        serve = [sys.executable, "-I", "-m", "ftslurm.runtime.serve"]
        argv = [*serve, "--say", str(writer), "--parent", str(os.getpid()), *self._arguments]
        environ = {**os.environ, "FTSLURM_ROLE": "supervisor"}
        # Signals wait until the supervisor has its handlers: the time limit's warning must neither kill it nor be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        self._child = subprocess.Popen(argv, pass_fds=(writer,), env=environ)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        os.close(writer)
        if self._pending is not None:
            self._child.send_signal(self._pending)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.readline()
        self._child.wait()
        return dict(json.loads(said)) if said.endswith(b"\n") else None

    def _follow(self, word: dict[str, Any]) -> int:
        if word.get("park"):
            print(f"[ftslurm] {word['park']}", flush=True)
            return self._park()
        return int(word["code"])

    def _park(self) -> int:
        """Wait until the journal says that the run has ended; nothing else ends the wait."""
        paths = RunPaths(Path(self._arguments[-1]))
        seen = -1
        while True:
            time.sleep(PARK_POLL_S)
            try:
                size = sum(path.stat().st_size for path in paths.root.glob("journal.*.jsonl"))
                end = _end_of(journal.read(paths)) if size != seen else None
            except (FtslurmError, OSError):
                continue  # storage that does not answer now; it is asked again
            seen = size
            if end is not None and end.phase in ENDED:
                self._await_settled(paths)
                print(f"[ftslurm] {end.phase}: {end.reason} (exit code {end.code})", flush=True)
                return end.code

    @staticmethod
    def _await_settled(paths: RunPaths) -> None:
        """Give agents their time to bring away what they hold: Slurm kills them when this process returns."""
        deadline = time.monotonic() + SETTLED_S
        epoch = max(int(path.name.split(".")[1]) for path in paths.root.glob("journal.*.jsonl"))
        while not paths.settled(epoch).exists() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Hand a signal on; one that comes while no supervisor runs is kept for the next."""
        del frame
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)
        else:
            self._pending = number


def _end_of(entries: Iterable[Entry]) -> EndRun | None:
    """Return the end of a run, if its newest entry has brought it."""
    last = [entry.actions for entry in entries][-1:]
    return next((action for actions in last for action in actions if isinstance(action, EndRun)), None)
