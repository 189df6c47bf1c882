"""An agent's side of NVML: questions to a child process that is killed when it does not answer in time.

A child that cannot be killed (it hangs in the kernel, state D) is left alone, and no other one is started beside it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ftslurm.core.health import Reading

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-I", "-m", "ftslurm.runtime.nvml")
KILL_S = 2.0
ENDED: dict[str, Any] = {"ended": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: readings, and why something is unknown (empty: nothing is)."""

    readings: tuple[Reading, ...] = ()
    unknown: str = ""


class Gpus:
    """The GPUs of this node. `read` may be called from one thread at a time; `on_xid` is called from another."""

    def __init__(self, expected: int, on_xid: Callable[[str, int], None], environ: Mapping[str, str]) -> None:
        """`expected` is how many GPUs Slurm gave to the job; `on_xid` takes a PCI bus id and a code."""
        self._expected = expected
        self._on_xid = on_xid
        self._environ = dict(environ)
        self._child: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._absent = ""
        self.buses: frozenset[str] = frozenset()

    def read(self, deadline_s: float) -> Answer:
        """Return what NVML says, or that it is unknown, within the deadline and the time to kill a process."""
        if self._absent:
            return Answer(unknown=self._absent)
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None:
            self._start()
        try:
            said = self._exchange(deadline_s)
        except (queue.Empty, BrokenPipeError):
            return Answer(unknown=f"NVML has not answered within {deadline_s:g} s" + self._end())
        return self._answer(said)

    def _answer(self, said: dict[str, Any]) -> Answer:
        if said is ENDED:
            self.close()
            return Answer(unknown="the process that asks NVML has ended in the middle of it")
        if "absent" in said:
            self._absent = str(said["absent"])
            self.close()
            return Answer(unknown=self._absent)
        return Answer(readings=tuple(Reading(**each) for each in said["readings"]), unknown=str(said["error"]))

    def close(self) -> None:
        """End the child; returns in bounded time."""
        self._end()

    # ------------------------------------------------------------------------------------------------- the child

    def _start(self) -> None:
        child = subprocess.Popen(
            (*PROGRAM, str(self._expected)),
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._child, self._answers = child, queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(child, self._answers), name="nvml", daemon=True).start()

    def _exchange(self, deadline_s: float) -> dict[str, Any]:
        child = self._child
        if child is None or child.stdin is None:
            raise queue.Empty
        # One that has just said why there is nobody to ask does not listen any more; its answer is on the way.
        with suppress(BrokenPipeError):
            os.write(child.stdin.fileno(), b"read\n")
        return self._answers.get(timeout=deadline_s)

    def _listen(self, child: subprocess.Popen[bytes], answers: queue.SimpleQueue[dict[str, Any]]) -> None:
        """Sort what the child says."""
        for line in child.stdout or ():
            said = json.loads(line)
            if "xid" in said:
                self._on_xid(said["pci"], said["xid"])
            elif "gpus" in said:
                self.buses = frozenset(bus(pci) for pci in said["gpus"])
                log.info("GPUs of this node: %s", said["gpus"])
            elif "no_xids" in said:
                log.info("NVML reports no XIDs: %s", said["no_xids"])
            else:
                answers.put(said)
        answers.put(ENDED)

    def _end(self) -> str:
        """Kill and reap the child; returns what is to be added to the reason where that is not possible."""
        child = self._child
        if child is None:
            return ""
        child.kill()
        try:
            child.wait(KILL_S)
        except subprocess.TimeoutExpired:
            return ", and its process cannot be killed: the driver hangs in the kernel"
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        self._child = None
        return ""


def bus(pci: str) -> str:
    """Return a PCI bus id in one form: NVML writes 00000000:3B:00.0 where the kernel's log has 0000:3b:00."""
    domain, _, rest = pci.lower().partition(":")
    return f"{domain[-4:]}:{rest.partition('.')[0]}"
