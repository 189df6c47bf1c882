"""The journal: every event that changed a run, with the actions that followed, as JSON lines; and the lease.

One writer and one file per epoch. A record is safe, and its actions may be performed, when it is fsynced on shared
storage *or* a majority of the agents has acknowledged a copy: shared storage may hang for minutes and nothing of a
healthy run may stop for it. A copy also goes to the writer's own node, so that a supervisor that is started again on
the same host can go on while shared storage hangs. A torn last line is legal; anything else that cannot be read is
not.

The lease says who acts for the run. It is renewed by creating the next name with O_EXCL: EEXIST means fenced, and no
cache can lie about that (open(2), O_EXCL on NFS since protocol version 3).
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftslurm.core.actions import Action
from ftslurm.core.events import Event
from ftslurm.core.records import from_record, to_record
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.errors import DataDamaged, StorageError, TryAgain
from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER, RunPaths

KEPT_LEASES = 3
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: `number` counts from 0 over the whole run, `t` is epoch seconds."""

    number: int
    epoch: int
    t: float
    phase: str
    event: Event
    actions: tuple[Action, ...]

    def line(self) -> str:
        """The entry as one line of JSON."""
        record = {
            "n": self.number,
            "epoch": self.epoch,
            "t": round(self.t, 4),
            "phase": self.phase,
            "event": to_record(self.event),
            "actions": [to_record(action) for action in self.actions],
        }
        return json.dumps(record, ensure_ascii=True, separators=(",", ":"))


def parse_line(line: str) -> Entry:
    """Return the entry of a journal line.

    Raises:
        DataDamaged: it is no complete record.
    """
    try:
        record = json.loads(line)
        return Entry(
            number=int(record["n"]),
            epoch=int(record["epoch"]),
            t=float(record["t"]),
            phase=str(record["phase"]),
            event=from_record(record["event"]),
            actions=tuple(from_record(action) for action in record["actions"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataDamaged(f"a journal line cannot be read: {error}") from error


class Writer:
    """Appends entries to one epoch's journal, in a thread of its own for shared storage."""

    def __init__(self, paths: RunPaths, epoch: int, local: Path) -> None:
        """Open the journal of `epoch`; `local` is the copy on this node."""
        self._paths = paths
        self._epoch = epoch
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._local = os.open(local, flags, PRIVATE_FILE)
        self._queue: queue.SimpleQueue[tuple[str, threading.Event] | None] = queue.SimpleQueue()
        self._behind_since: float | None = None
        self.error = ""
        self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)
        self._thread.start()

    def append(self, entry: Entry) -> threading.Event:
        """Hand an entry over; the returned event is set when it is fsynced on shared storage."""
        line = entry.line() + "\n"
        os.write(self._local, line.encode())
        done = threading.Event()
        self._queue.put((line, done))
        return done

    def close(self, timeout_s: float) -> bool:
        """Write what is left; False when shared storage did not take it in time."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        os.close(self._local)
        return not self._thread.is_alive()

    def behind_s(self) -> float:
        """Seconds for which the oldest unwritten entry has been waiting for shared storage."""
        since = self._behind_since
        return time.monotonic() - since if since is not None else 0.0

    def _write_all(self) -> None:
        handle = -1
        while (item := self._queue.get()) is not None:
            line, done = item
            self._behind_since = time.monotonic()
            while True:
                try:
                    handle = self._open() if handle < 0 else handle
                    _write_whole(handle, line.encode())
                    break
                except OSError as error:
                    # Full, over quota, stale: nothing is lost, the line is written when the storage takes it again.
                    self.error = str(error)
                    handle = _close(handle)
                    time.sleep(1.0)
            self.error = ""
            self._behind_since = None
            done.set()
        _close(handle)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.open(self._paths.journal(self._epoch), flags, PRIVATE_FILE)


def _write_whole(handle: int, data: bytes) -> None:
    """Append `data` and make it durable; a part that was written before an error is cut off again."""
    start = os.lseek(handle, 0, os.SEEK_END)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, start)
        raise


def _close(handle: int) -> int:
    if handle >= 0:
        os.close(handle)
    return -1


def read(paths: RunPaths, *extra: Path) -> Iterator[Entry]:
    """Yield the entries of a run in order; `extra` are copies that may know more than shared storage.

    Raises:
        DataDamaged: a line other than the last of a file cannot be read.
    """
    found: dict[int, Entry] = {}
    for path in (*_epoch_files(paths), *extra):
        for entry in _entries(path):
            known = found.get(entry.number)
            if known is None or entry.epoch >= known.epoch:
                found[entry.number] = entry
    yield from (found[number] for number in sorted(found))


def _epoch_files(paths: RunPaths) -> list[Path]:
    files = [path for path in paths.root.glob("journal.*.jsonl") if path.name.split(".")[1].isdigit()]
    return sorted(files, key=lambda path: int(path.name.split(".")[1]))


def _entries(path: Path) -> Iterator[Entry]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    lines = data.split(b"\n")
    for index, line in enumerate(lines[:-1]):
        try:
            yield parse_line(line.decode("utf-8", "replace"))
        except DataDamaged as error:
            raise DataDamaged(f"{path}, line {index + 1}: {error}") from error


def replay(entries: Iterator[Entry], policy: Policy) -> tuple[Run, int]:
    """Return the state after the entries, and how many there were, by taking every decision again."""
    run, count = Run(), 0
    for entry in entries:
        run, _ = advance(run, entry.event, policy)
        count = entry.number + 1
    return run, count


# -------------------------------------------------------------------------------------------------------- lease


@dataclass(frozen=True, slots=True)
class Holder:
    """Who acts for a run."""

    number: int
    epoch: int
    job_id: str
    restart: int
    host: str
    pid: int
    t: float


def holder(paths: RunPaths) -> Holder | None:
    """Return who holds the lease, or held it last; None when nobody ever did."""
    numbers = _lease_numbers(paths)
    for number in reversed(numbers):
        try:
            record = json.loads((paths.lease / str(number)).read_text())
            return _holder(number, record)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"cannot read the lease {paths.lease / str(number)}: {error}") from error
    return None


def _holder(number: int, record: Mapping[str, Any]) -> Holder:
    return Holder(
        number=number,
        epoch=int(record["epoch"]),
        job_id=str(record["job_id"]),
        restart=int(record["restart"]),
        host=str(record["host"]),
        pid=int(record["pid"]),
        t=float(record["t"]),
    )


def _lease_numbers(paths: RunPaths) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(paths.lease) if name.isdigit())
    except FileNotFoundError:
        return []


class Lease:
    """The right to act for a run, renewed on shared storage."""

    def __init__(self, paths: RunPaths, record: Mapping[str, Any]) -> None:
        self._paths = paths
        self._record = dict(record)
        self._number = -1

    @property
    def number(self) -> int:
        """The number that is held, -1 before the first claim."""
        return self._number

    def claim(self) -> int:
        """Take the next number and return the epoch: one more than the last holder's.

        Raises:
            TryAgain: somebody else took it in the same moment.
        """
        self._paths.lease.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        last = holder(self._paths)
        epoch = last.epoch + 1 if last else 1
        self._record["epoch"] = epoch
        self._create(last.number + 1 if last else 0)
        return epoch

    def renew(self) -> None:
        """Take the next number.

        Raises:
            TryAgain: another supervisor has taken it: this one is fenced.
        """
        self._create(self._number + 1)
        self._forget(self._number - KEPT_LEASES)

    def _create(self, number: int) -> None:
        path = self._paths.lease / str(number)
        data = json.dumps({**self._record, "t": time.time()}).encode()
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE)
        except FileExistsError:
            raise TryAgain(f"the lease {path} is held by another supervisor") from None
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        self._number = number

    def _forget(self, number: int) -> None:
        if number >= 0:
            (self._paths.lease / str(number)).unlink(missing_ok=True)
