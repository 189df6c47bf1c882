"""The node ledger: what runs have learnt about nodes, kept beyond them, in a folder on shared storage.

Every process that has something to say appends lines of JSON to a file of its own (`<host>-<pid>-<name>.jsonl`): so
several writers on NFS never share one, and nothing is ever rewritten. A reader takes all files together and passes over
what it cannot read: a torn last line, a line of a newer release. The folder is private (0700) unless somebody makes it
writable for a group on purpose; then the group can read its files. One that everybody could write to is refused.

Kinds of records: `mark` (a node was given up), `forgive` (marks up to now count no more), `wait` (how long a
requeued job waited beyond Slurm's own delay).
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftslurm.core.lemons import Evidence, Forgiveness, Mark
from ftslurm.errors import CannotCreate, SiteForbids, StorageError
from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER

log = logging.getLogger(__name__)

VERSION = 1
MAX_LINE = 4000
"""Short enough for one write; a reason is cut before."""
MAX_FILE_BYTES = 16 << 20
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A requeued job waited so long beyond Slurm's own delay."""

    at: float
    wait_s: float
    partition: str
    nodes: int


@dataclass(slots=True)
class Contents:
    """Everything in a ledger; `unread` counts lines and files that were passed over."""

    marks: list[Mark] = field(default_factory=list)
    forgiven: list[Forgiveness] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    unread: int = 0


class Writer:
    """Appends to the one file of this process, which is made with the first record."""

    def __init__(self, folder: Path, name: str) -> None:
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", f"{socket.gethostname()}-{os.getpid()}-{name}")
        self._path = folder / f"{safe[:200]}.jsonl"

    def mark(self, mark: Mark) -> None:
        """Say that a node was given up."""
        record = {"kind": "mark", "t": mark.at, "node": mark.node, "cause": mark.cause, "evidence": mark.evidence.value}
        self._append({**record, "weight": mark.weight, "run": mark.run, "job": mark.job, "reason": mark.reason[:1000]})

    def forgive(self, forgiven: Forgiveness) -> None:
        """Say that a node's marks count no more."""
        record = {"kind": "forgive", "t": forgiven.at, "node": forgiven.node, "by": forgiven.by}
        self._append({**record, "reason": forgiven.reason[:1000]})

    def wait(self, wait: Wait) -> None:
        """Say how long a requeued job has waited."""
        record = {"kind": "wait", "t": wait.at, "wait_s": wait.wait_s}
        self._append({**record, "partition": wait.partition, "nodes": wait.nodes})

    def _append(self, record: Mapping[str, Any]) -> None:
        """Append one line and make it safe.

        Raises:
            CannotCreate: the folder or the file cannot be made.
            SiteForbids: everybody could write to the folder.
            StorageError: the line cannot be written.
        """
        shared = _prepare(self._path.parent)
        line = json.dumps({"v": VERSION, **record}, separators=(",", ":"), ensure_ascii=True) + "\n"
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self._path, flags, PRIVATE_FILE)
        except OSError as error:
            raise CannotCreate(f"cannot write to the node ledger {self._path}: {error.strerror}") from error
        try:
            if shared:
                os.fchmod(handle, 0o640)
            _write_whole(handle, line.encode())
            os.fsync(handle)
        except OSError as error:
            raise StorageError(f"the node ledger {self._path} does not take a record: {error.strerror}") from error
        finally:
            os.close(handle)


def _write_whole(handle: int, data: bytes) -> None:
    """After a torn line a new one begins: what was left of the old one is then one unreadable line."""
    size = os.fstat(handle).st_size
    if size and not _ends_whole(handle, size):
        data = b"\n" + data
    while data:
        data = data[os.write(handle, data) :]


def _ends_whole(handle: int, size: int) -> bool:
    with open(f"/proc/self/fd/{handle}", "rb") as file:  # noqa: PTH123 - the same file, for reading
        file.seek(size - 1)
        return file.read(1) == b"\n"


def _prepare(folder: Path) -> bool:
    """Make the folder, private, if it is not there; return whether a group shares it.

    Raises:
        CannotCreate: it cannot be made.
        SiteForbids: everybody could write to it.
    """
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as error:
        raise CannotCreate(f"cannot make the node ledger's folder {folder}: {error.strerror}") from error
    if mode & stat.S_IWOTH:
        raise SiteForbids(
            f"everybody can write to the node ledger {folder}: its marks could be anybody's",
            hint=f"chmod o-w {folder}; a group may share it (chmod g+ws)",
        )
    return bool(mode & stat.S_IWGRP)


def read(folder: Path) -> Contents:
    """Return all that is readable; a ledger that is not there is empty.

    Raises:
        StorageError: the folder is there and cannot be read.
    """
    found = Contents()
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".jsonl"))
    except FileNotFoundError:
        return found
    except OSError as error:
        raise StorageError(f"cannot read the node ledger {folder}: {error.strerror}") from error
    for name in names:
        for record in _records(folder / name, found):
            if not _take(record, found):
                found.unread += 1
    return found


def _records(path: Path, found: Contents) -> Iterator[Any]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            data = file.read(MAX_FILE_BYTES)
    except OSError as error:
        log.warning("the node ledger's file %s is passed over: %s", path, error)
        found.unread += 1
        return
    for line in data.split(b"\n"):
        if line:
            try:
                yield json.loads(line)
            except ValueError:
                found.unread += 1


def _take(record: Any, found: Contents) -> bool:  # noqa: ANN401 - whatever a line held
    """Add a record to what was found; False where it is none of ours, or of another shape."""
    try:
        kind, at = record["kind"], float(record["t"])
        if record["v"] != VERSION:
            return False
        if kind == "wait":
            wait_s, nodes = float(record["wait_s"]), int(record["nodes"])
            found.waits.append(Wait(at=at, wait_s=wait_s, partition=str(record["partition"]), nodes=nodes))
            return True
        node = record["node"]
        if not _NODE.fullmatch(node):
            return False
        if kind == "mark":
            found.marks.append(_mark(record, node, at))
        elif kind == "forgive":
            reason, by = str(record.get("reason", "")), str(record.get("by", ""))
            found.forgiven.append(Forgiveness(node=node, at=at, reason=reason, by=by))
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    return kind in ("mark", "forgive")


def _mark(record: Mapping[str, Any], node: str, at: float) -> Mark:
    weight = float(record["weight"])
    if not 0.0 <= weight <= 1.0:
        raise ValueError("a mark weighs between 0 and 1")
    texts = {name: str(record.get(name, "")) for name in ("run", "job", "reason")}
    evidence = Evidence(record["evidence"])
    return Mark(node=node, at=at, cause=str(record["cause"]), evidence=evidence, weight=weight, **texts)


def forgive(folder: Path, node: str, reason: str, by: str) -> Forgiveness:
    """Append that a node's marks count no more, and return what was written."""
    forgiven = Forgiveness(node=node, at=time.time(), reason=reason, by=by)
    Writer(folder, f"forgive-{by}").forgive(forgiven)
    return forgiven
