"""rsync as a carrier of bytes, to a path or to another host over ssh.

What rsync is told, and why (rsync(1)): `--whole-file`, because a delta of two checkpoints saves nothing; never
`--inplace`, which exposes half files; `--checksum`, because its quick check of size and time leaves a damaged file of
equal size in place; `--fsync` where it exists (3.2.4); `--protect-args`, so that no remote shell reads the names; the
list of files comes from the manifest, over stdin. ssh never asks (BatchMode) and gives up on a silent host.

After sending to another host the same command is asked once more, dry: it compares the checksums of both sides and
must find nothing to do. After sending to a path the caller reads the bytes back himself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.errors import DataDamaged, StorageError, TryAgain, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from threading import Event

SSH = "ssh -oBatchMode=yes -oConnectTimeout=10 -oServerAliveInterval=15 -oServerAliveCountMax=4"
SILENCE_S = 120
"""rsync gives up when nothing moves for so long."""

_REMOTE = re.compile(r"(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]*)@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>/(?!/).*)")
_FSYNC_SINCE = (3, 2, 4)
_SLOWEST = 1 << 20
_POLL_S = 0.2
_GRACE_S = 5.0
_SAID_CHARS = 400


@dataclass(frozen=True, slots=True)
class Remote:
    """Another host and an absolute path on it."""

    address: str
    path: str

    @classmethod
    def parse(cls, text: str, allowed_hosts: Sequence[str] = ()) -> Remote | None:
        """None for a path on this host.

        Raises:
            UsageError: a host that is no plain name, rsync's daemon, or one that is not in `allowed_hosts`.
        """
        head = text.partition("/")[0]
        if ":" not in head:
            return None
        found = _REMOTE.fullmatch(text)
        if not found or any(ord(char) < 0x20 for char in text):
            raise UsageError(f"{text!r} is not host:/path or user@host:/path")
        if allowed_hosts and found["host"] not in allowed_hosts:
            raise UsageError(f"{found['host']!r} is not among the hosts allowed: {', '.join(allowed_hosts)}")
        return cls(text.partition(":")[0], found["path"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """Files of `folder`, by name, to the folder `to` (a path, or an address and a path)."""

    folder: Path
    names: tuple[str, ...]
    to: str
    size_bytes: int
    rate_limit: int = 0
    stop: Event | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the bytes leave this host."""
        return not self.to.startswith("/")

    def options(self, version: tuple[int, ...]) -> list[str]:
        """What rsync is told, before the two places."""
        told = ["--files-from=-", "--from0", "--whole-file", "--checksum", "--protect-args", f"--timeout={SILENCE_S}"]
        if version >= _FSYNC_SINCE:
            told.append("--fsync")
        if self.rate_limit:
            told.append(f"--bwlimit={max(1, self.rate_limit // 1024)}")
        if self.is_remote:
            told.append(f"--rsh={SSH}")
        return told

    @property
    def places(self) -> list[str]:
        """From where to where."""
        return ["--", f"{self.folder}/", f"{self.to}/"]

    @property
    def deadline_s(self) -> float:
        """Longer than any sending that still makes sense."""
        return 600.0 + 2 * self.size_bytes / (self.rate_limit or _SLOWEST)


def send(sending: Sending) -> None:
    """Bring the files over; to another host, also ask whether all of it arrived.

    Raises:
        StorageError: rsync or ssh failed; later it may work.
        DataDamaged: another host has other bytes than were sent.
        UsageError: there is no rsync.
        TryAgain: stopped on request.
    """
    told = sending.options(version())
    _run(["rsync", *told, *sending.places], sending)
    if sending.is_remote:
        left = _run(["rsync", *told, "--dry-run", "--out-format=%i %n", *sending.places], sending)
        wrong = [line for line in left.splitlines() if line.startswith(("<", ">", "c"))]
        if wrong:
            raise DataDamaged(f"{sending.to}: not what was sent: {'; '.join(wrong)[:_SAID_CHARS]}")


@functools.cache
def version() -> tuple[int, ...]:
    """The version of the rsync on PATH. Raises UsageError where there is none."""
    try:
        answer = subprocess.run(
            ["rsync", "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise UsageError("rsync does not answer on this node", hint="set `checkpoint: drain: copy`") from error
    found = re.search(r"version v?(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(int(number) for number in found.groups()) if found else (0,)


def _run(argv: list[str], sending: Sending) -> str:
    """Run rsync to its end, or until it is stopped; returns what it wrote to stdout."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RSYNC_")}
    with tempfile.TemporaryFile() as names, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaint:
        names.write(b"\0".join(name.encode() for name in sending.names) + b"\0")
        names.seek(0)
        process = subprocess.Popen(
            argv, stdin=names, stdout=said, stderr=complaint, env=environ, start_new_session=True
        )
        try:
            code = _wait(process, sending)
        finally:
            _end(process)
        said.seek(0)
        complaint.seek(0)
        if code != 0:
            text = " ".join(complaint.read().decode(errors="replace").split())
            raise StorageError(f"rsync to {sending.to} ended with code {code}: {text[-_SAID_CHARS:]}")
        return said.read().decode(errors="replace")


def _wait(process: subprocess.Popen[bytes], sending: Sending) -> int:
    deadline = time.monotonic() + sending.deadline_s
    while (code := process.poll()) is None:
        if sending.stop is not None and sending.stop.wait(_POLL_S):
            raise TryAgain("stopped on request")
        if sending.stop is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
        if time.monotonic() > deadline:
            raise StorageError(f"rsync to {sending.to} did not end within {sending.deadline_s:.0f} s")
    return code


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave no rsync and no ssh behind; one that cannot be killed (state D) is left to the system."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
