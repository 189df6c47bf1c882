"""The user's own programs, called on occasions that the configuration names: no shell, one at a time, with a deadline.

The facts come as one JSON object on standard input. What a hook prints goes to the supervisor's log, and whatever it
does, hangs or returns: the run takes no notice. Calls wait in line; what is too much for it is dropped, and logged.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from ftslurm.core.conditions import CallHook
from ftslurm.runtime.logs import event

log = logging.getLogger(__name__)

DEADLINE_S = 30.0
REAP_S = 2.0
MOST_WAITING = 100
WORDS = 2000


class Hooks:
    """The hooks of one run."""

    def __init__(self, programs: Mapping[str, tuple[str, ...]], run_id: str, deadline_s: float = DEADLINE_S) -> None:
        """`programs` are argument lists by the occasion's name; an empty one is not set."""
        self._programs = {name: argv for name, argv in programs.items() if argv}
        self._run_id = run_id
        self._deadline_s = deadline_s
        self._waiting: queue.Queue[CallHook] = queue.Queue(MOST_WAITING)
        if self._programs:
            threading.Thread(target=self._work, name="hooks", daemon=True).start()

    def call(self, action: CallHook) -> None:
        """Have a hook run soon, if the user has set one; returns at once."""
        if action.hook not in self._programs:
            return
        try:
            self._waiting.put_nowait(action)
        except queue.Full:
            log.warning("%d calls of hooks are waiting: this one is dropped: %s", MOST_WAITING, action.facts)

    def run(self, argv: tuple[str, ...], facts: bytes) -> None:
        """Run a program now, and wait until it has ended or its deadline is over."""
        self._run(argv, facts)

    def _work(self) -> None:
        while True:
            action = self._waiting.get()
            facts = json.dumps({"hook": action.hook, "run_id": self._run_id, **action.facts})
            self._run(self._programs[action.hook], facts.encode())

    def _run(self, argv: tuple[str, ...], facts: bytes) -> None:
        began = time.monotonic()
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            log.warning("hook %s cannot be run: %s", argv[0], error, extra=event("hook", well=False))
            return
        try:
            words = child.communicate(facts + b"\n", self._deadline_s)[0]
        except subprocess.TimeoutExpired:
            self._kill(child)
            about = event("hook", well=False, took_s=self._deadline_s)
            log.warning("hook %s has not ended within %g s and was killed", argv[0], self._deadline_s, extra=about)
            return
        text = words[-WORDS:].decode(errors="replace")
        about = event("hook", well=child.returncode == 0, took_s=time.monotonic() - began)
        log.info("hook %s ended with code %d: %s", argv[0], child.returncode, text, extra=about)

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        """Kill its whole process group: what it started must not hold the pipe open."""
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=REAP_S)
