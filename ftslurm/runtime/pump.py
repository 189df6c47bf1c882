"""What a rank's wrapper writes: the output of its rank, and log lines of its own. It travels beside `rank.py`."""
# ruff: noqa: PTH103, PTH120

from __future__ import annotations

import json
import os
import select
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

RETRY_S = 0.2
KEPT_BYTES, TAIL_BYTES, READ_BYTES = 2**20, 2**14, 2**16


class Pump:
    """Carries stdout and stderr, a pipe each, into one file; keeps the end of stderr."""

    def __init__(self, path: str) -> None:
        self.tail, self.stopping = b"", False
        self._path, self._fd, self._midline = path, -1, False
        self._pending, self._lost, self._why, self._retry_at = bytearray(), 0, "", 0.0
        self._begun: dict[int, bytes] = {}

    def run(self, out: int, err: int) -> None:
        """Carry until both have ended or, after `stopping`, are silent."""
        self._begun = {out: b"", err: b""}  # of each the line that has not ended
        poll = select.poll()
        poll.register(out, select.POLLIN)
        poll.register(err, select.POLLIN)
        while self._begun and (self._carry(poll, err) or not self.stopping):
            pass

    def _carry(self, poll: select.poll, err: int) -> bool:
        """Move what is there. Lines of the two never mix, unless one is very long or waits for its end."""
        busy = any(self._begun.values()) or self._pending or self.stopping
        found = poll.poll(RETRY_S * 1000 if busy else 1000)
        for fd, _ in found:
            data = os.read(fd, READ_BYTES)
            self.tail = (self.tail + data)[-TAIL_BYTES:] if fd == err else self.tail
            text = self._begun.pop(fd) + data
            end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1 if data and len(text) < 2 * READ_BYTES else len(text)
            self.write(text[:end])
            if data:
                self._begun[fd] = text[end:]
            else:
                poll.unregister(fd)
        if not found:
            for fd, text in self._begun.items():
                self.write(text)
                self._begun[fd] = b""
        return bool(found)

    def say(self, text: str) -> None:
        """Add a line of our own, also to the tail."""
        line = f"ftslurm: {text}\n".encode(errors="replace")
        self.tail = (self.tail + line)[-TAIL_BYTES:]
        self.write((b"\n" if self._midline else b"") + line)

    def write(self, data: bytes) -> None:
        """Append to the file. While that fails the newest MiB is kept, and what it pushes out is counted."""
        self._pending += data
        try:
            if time.monotonic() >= self._retry_at:
                self._write()
        except OSError as error:
            self._why, self._retry_at = str(error.strerror or error), time.monotonic() + RETRY_S
        excess = len(self._pending) - KEPT_BYTES
        if excess > 0:
            end = self._pending.find(b"\n", excess, excess + READ_BYTES) + 1 or excess
            self._lost += end
            del self._pending[:end]

    def _write(self) -> None:
        if self._fd < 0:
            os.makedirs(os.path.dirname(self._path) or ".", mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
        if self._lost:
            note = f"ftslurm: {self._lost} bytes of output are missing here: {self._why}\n"
            os.write(self._fd, (b"\n" if self._midline else b"") + note.encode())
            self._lost, self._midline = 0, False
        while self._pending:
            done = os.write(self._fd, self._pending)
            self._midline = self._pending[done - 1] != 10
            del self._pending[:done]


def ecs_line(environ: Mapping[str, str], labels: Mapping[str, Any], level: str, told: Mapping[str, Any]) -> bytes:
    """A line of a log file in the form of `runtime.logs`: JSON with ECS names, time in UTC; `told` has the message."""
    now, job, task = time.time(), environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    about = {
        "run_id": environ.get("FTSLURM_RUN_ID", ""),
        "job_id": f"{job}_{task}" if job and task else environ.get("SLURM_JOB_ID", ""),
        "role": "wrapper",
    }
    record = {
        "@timestamp": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
        "log.level": level,
        **told,
        "labels": {**about, **{name: str(value) for name, value in labels.items()}},
        "service": {"name": "ftslurm"},
        "host": {"hostname": socket.gethostname()},
        "process": {"pid": os.getpid()},
    }
    return (json.dumps(record) + "\n").encode()
