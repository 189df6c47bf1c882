"""The srun clients of attempts, and how they come to an end.

A client whose tasks have been killed ends by itself within a moment, when the nodes have told it so. Killed before that
it does harm. Its shepherd, a child that srun keeps for this case, has the step killed (M25); and a slurmstepd of 22.05
that is asked to kill its step within milliseconds of the end of its last task waits for a thread of its own that sleeps
for 61 s, and has the node drained for it ("Kill task failed": a race in step_terminate_monitor.c, seen by gdb). Every
node also tries for two seconds to reach the client that is gone. So nobody asks Slurm for anything while agents kill
the ranks, and what is left after some seconds is ended then: on a node that was cut, or has no agent.

An attempt that is not whole is different: its client may still start tasks, and is killed at once.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftslurm.core.events import LaunchEnded
from ftslurm.errors import FtslurmError

log = logging.getLogger(__name__)

PATIENCE_S = 3.0
OUTPUT_TAIL = 2000
REFUSAL = re.compile(r"^ftslurm\.errors\.\w+: (.+)\s*\Z", re.MULTILINE)
"""How the traceback of an agent ends that has found a reason not to run."""


@dataclass
class _Client:
    """One client; `said` is what it had printed when its end was ordered, after which it tells of our own doing."""

    process: subprocess.Popen[bytes]
    output: Path
    said: str | None = None


class Clients:
    """Knows the launchers that this supervisor has started; `cancel` has Slurm kill a job step."""

    def __init__(self, emit: Callable[[LaunchEnded], None], cancel: Callable[[str], None]) -> None:
        self._emit = emit
        self._cancel = cancel
        self._clients: dict[int, _Client] = {}

    def add(self, attempt: int, process: subprocess.Popen[bytes], output: Path) -> None:
        """The launcher of an attempt has been started; its end comes as LaunchEnded."""
        client = self._clients[attempt] = _Client(process, output)
        threading.Thread(target=self._wait, args=(attempt, client), name="launcher", daemon=True).start()

    def _wait(self, attempt: int, client: _Client) -> None:
        code = client.process.wait()
        if client.said is None:
            self._emit(LaunchEnded(attempt=attempt, code=code, output=tail(client.output)))
        else:
            self._emit(LaunchEnded(attempt=attempt, code=-signal.SIGKILL, output=client.said))

    def end(self, attempt: int, steps: Sequence[str], *, at_once: bool, gone: Callable[[], bool]) -> None:
        """Agents are killing the ranks of an attempt: end its client and its job steps, too, where that is needed.

        `gone` is asked after some seconds: whether every node has confirmed that no rank is left.
        """
        client = self._clients.get(attempt)
        if client is not None and client.process.poll() is None and client.said is None:
            client.said = tail(client.output)
        if client is not None and at_once and not steps:
            client.process.kill()  # nobody knows which step it is but its shepherd
            return
        timer = threading.Timer(0.0 if at_once else PATIENCE_S, self._finish, (client, tuple(steps), gone))
        timer.daemon = True
        timer.start()

    def _finish(self, client: _Client | None, steps: Sequence[str], gone: Callable[[], bool]) -> None:
        if client is not None:
            kill(client.process)
        for step in () if gone() else steps:
            # Waits for 12 s and ends in an error where a node cannot be reached (M2); this thread has the time.
            try:
                self._cancel(step)
            except FtslurmError as error:
                log.info("scancel of step %s: %s", step, error)

    def leave(self) -> None:
        """The run leaves: give the clients a moment to end, and kill those that wait for a lost node."""
        end = time.monotonic() + PATIENCE_S
        processes = [client.process for client in self._clients.values()]
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            time.sleep(0.05)
        for process in processes:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a client with its shepherd, so that Slurm is not asked twice: nobody else is in their session."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def tail(path: Path) -> str:
    """The end of a launcher's output."""
    try:
        return path.read_bytes()[-OUTPUT_TAIL:].decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def refusals(folder: Path, mark: str) -> list[str]:
    """What agents say of themselves that could not run, by node: the error that each has ended with."""
    found = []
    for path in sorted(folder.glob(f"{mark}-*.out")):
        match = REFUSAL.search(tail(path))
        if match:
            found.append(f"no agent on {path.stem.removeprefix(f'{mark}-')}: {match[1]}")
    return found
