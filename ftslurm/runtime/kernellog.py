"""XIDs from the kernel's log, where it may be read: NVML does not report all of them, and not after a GPU is lost.

/dev/kmsg gives one record a read (kernel Documentation/ABI/testing/dev-kmsg); only what comes after the start counts,
and only of GPUs that NVML shows to this job: others on the node may be somebody else's.
"""

from __future__ import annotations

import logging
import os
import re
import select
import threading
from collections.abc import Callable
from pathlib import Path

from ftslurm.runtime.gpus import bus

log = logging.getLogger(__name__)

KMSG = Path("/dev/kmsg")
POLL_MS = 1000
RECORD_BYTES = 8192
XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)(?:, (.*))?")


class KernelLog:
    """Follows the kernel's log in a thread of its own."""

    def __init__(self, on_xid: Callable[[str, int, str], None], path: Path = KMSG) -> None:
        """`on_xid` takes a PCI bus id, a code and the driver's words."""
        self._on_xid = on_xid
        self._path = path
        self._leaving = threading.Event()
        self.buses: frozenset[str] = frozenset()

    def start(self) -> None:
        """Follow the log, where this user may."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(handle, 0, os.SEEK_END)
        except OSError as error:
            log.info("the kernel's log cannot be read (%s): XIDs come from NVML alone", error.strerror)
            return
        threading.Thread(target=self._follow, args=(handle,), name="kernel log", daemon=True).start()

    def stop(self) -> None:
        """End the thread within a second."""
        self._leaving.set()

    def _follow(self, handle: int) -> None:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while not self._leaving.is_set():
            if poll.poll(POLL_MS):
                self._read(handle)
        os.close(handle)

    def _read(self, handle: int) -> None:
        try:
            record = os.read(handle, RECORD_BYTES)
        except BrokenPipeError:
            # Records were overwritten before they were read: the next read goes on with the oldest that is left.
            return
        if not record:
            self._leaving.wait(POLL_MS / 1000)
        self.take(record.decode("utf-8", "replace"))

    def take(self, text: str) -> None:
        """Report the XIDs in a piece of the log, those of the job's own GPUs."""
        for pci, code, words in XID.findall(text):
            if bus(pci) in self.buses:
                self._on_xid(pci, int(code), words)
