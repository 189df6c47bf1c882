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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
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
UNDER_WAY_S = 20.0
RETRY_S = 1.0


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


class _Appender:
    """One file that lines are appended to, by one writer; what an error left of a line is cut off before the next."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path = path
        self._durable = durable
        self._handle = -1
        self._length = -1

    def append(self, data: bytes) -> None:
        """Write all of it, or nothing that will stay.

        Raises:
            OSError: the file system does not take it now.
        """
        try:
            if self._handle < 0:
                self._open()
            view = memoryview(data)
            while view:
                view = view[os.write(self._handle, view) :]
            if self._durable:
                os.fsync(self._handle)
        except OSError:
            self.close()
            raise
        self._length += len(data)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            with suppress(OSError):  # what it reports was seen at fsync, or will be at the next one
                os.close(handle)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._handle = os.open(self._path, flags, PRIVATE_FILE)
        size = os.fstat(self._handle).st_size
        if self._length < 0:
            self._length = size
        elif size > self._length:
            os.ftruncate(self._handle, self._length)


class Writer:
    """Appends entries to one epoch's journal, in a thread of its own for shared storage."""

    def __init__(self, paths: RunPaths, epoch: int, local: Path) -> None:
        """Write the journal of `epoch`; `local` is the copy on this node, which is worth having but not needed."""
        self._local = _Appender(local, durable=False)
        self._shared = _Appender(paths.journal(epoch), durable=True)
        self._queue: queue.SimpleQueue[tuple[bytes, threading.Event] | None] = queue.SimpleQueue()
        self._behind_since: float | None = None
        self.error = ""
        self.local_error = ""
        self._thread = threading.Thread(target=self._write_all, name="journal", daemon=True)
        self._thread.start()

    def append(self, entry: Entry) -> threading.Event:
        """Hand an entry over; the returned event is set when it is fsynced on shared storage."""
        data = (entry.line() + "\n").encode()
        try:
            self._local.append(data)
            self.local_error = ""
        except OSError as error:
            self.local_error = str(error)
        done = threading.Event()
        self._queue.put((data, done))
        return done

    def close(self, timeout_s: float) -> bool:
        """Write what is left; False when shared storage did not take it in time."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._local.close()
        return not self._thread.is_alive()

    def behind_s(self) -> float:
        """Seconds for which the oldest unwritten entry has been waiting for shared storage."""
        since = self._behind_since
        return time.monotonic() - since if since is not None else 0.0

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            data, done = item
            self._behind_since = time.monotonic()
            while not self._written(data):
                time.sleep(RETRY_S)
            self._behind_since = None
            done.set()
        self._shared.close()

    def _written(self, data: bytes) -> bool:
        try:
            self._shared.append(data)
        except OSError as error:
            # Full, over quota, stale: nothing is lost, the line is written when the storage takes it again.
            self.error = str(error)
            return False
        self.error = ""
        return True


def read(paths: RunPaths, *extra: Path) -> Iterator[Entry]:
    """Yield the entries of a run in order; `extra` are copies that may know more than shared storage.

    Where two epochs wrote the same number the later one counts, and nothing of the earlier one after that: its writer
    had lost the run and did not know it yet.

    Raises:
        DataDamaged: a line other than the last of a file cannot be read.
    """
    found: dict[int, Entry] = {}
    for path in (*_epoch_files(paths), *extra):
        for entry in _entries(path):
            known = found.get(entry.number)
            if known is None or entry.epoch >= known.epoch:
                found[entry.number] = entry
    epoch = 0
    for number in sorted(found):
        if found[number].epoch >= epoch:
            epoch = found[number].epoch
            yield found[number]


def unshared(paths: RunPaths, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield those entries that only a node's own copy holds: whoever goes on from them writes them down first."""
    shared = {(entry.number, entry.epoch) for entry in read(paths)}
    return (entry for entry in entries if (entry.number, entry.epoch) not in shared)


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


def replay(entries: Iterable[Entry], policy: Policy) -> tuple[Run, int]:
    """Return the state after the entries, and how many there were, by taking every decision again.

    Raises:
        DataDamaged: entries are missing; what follows from the others is not what was decided.
    """
    run, count = Run(), 0
    for entry in entries:
        if entry.number != count:
            raise DataDamaged(f"the journal has no entry {count}, but an entry {entry.number}")
        run, _ = advance(run, entry.event, policy)
        count += 1
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
    takeover: bool = False


def holder(paths: RunPaths) -> Holder | None:
    """Return who holds the lease, or held it last; None when nobody ever did.

    A name without a record is one that is being taken in this moment, or was taken on full storage: the one before it
    tells.
    """
    while True:
        numbers = _lease_numbers(paths)
        for number in reversed(numbers):
            found = _read_holder(paths.lease / str(number), number)
            if found is not None:
                return found
        # Names are removed while they are looked at: then there are newer ones.
        if numbers == _lease_numbers(paths):
            return None


def _read_holder(path: Path, number: int) -> Holder | None:
    try:
        return _holder(number, json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read the lease {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
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
        takeover=bool(record.get("takeover", False)),
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
        self._first = -1

    @property
    def number(self) -> int:
        """The name that was taken last."""
        return self._number

    def claim(self, expected: int | None = None) -> int:
        """Take the next number and return the epoch, which nobody has had before.

        With `expected`, only from the holder of this epoch, and only if nobody else is just taking it.

        Raises:
            TryAgain: somebody else took it in the same moment.
            StorageError: shared storage does not let us.
        """
        try:
            self._paths.lease.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            last = holder(self._paths)
            number = max(_lease_numbers(self._paths), default=-1) + 1
            self._check_expected(expected, last, number)
            # Each name without a record may be a claim that got this far: its epoch is taken.
            epoch = (last.epoch if last else 0) + number - (last.number if last else -1)
            self._record["epoch"] = epoch
            self._create(number)
            self._check_newest()
        except OSError as error:
            raise StorageError(f"cannot take the lease in {self._paths.lease}: {error.strerror}") from error
        self._first = self._number
        return epoch

    def _check_expected(self, expected: int | None, last: Holder | None, number: int) -> None:
        """A name without a record is a claim that is under way, unless it has been so for long."""
        if expected is not None and (last is None or last.epoch != expected):
            raise TryAgain(f"the lease in {self._paths.lease} is not of epoch {expected} any more: {last}")
        newest = self._paths.lease / str(number - 1)
        if (
            expected is not None
            and last
            and number - 1 > last.number
            and time.time() - newest.stat().st_mtime < UNDER_WAY_S
        ):
            raise TryAgain(f"the lease {newest} is just being taken")

    def renew(self) -> None:
        """Take the next number.

        Raises:
            TryAgain: another supervisor has taken it: this one is fenced.
            OSError: shared storage does not let us now.
        """
        self._create(self._number + 1)
        # The first name of each holder stays for ever: a holder before it that was stopped meanwhile, and wakes up,
        # wants just that name.
        if self._number - KEPT_LEASES > self._first:
            (self._paths.lease / str(self._number - KEPT_LEASES)).unlink(missing_ok=True)

    def _create(self, number: int) -> None:
        path = self._paths.lease / str(number)
        data = json.dumps({**self._record, "t": time.time()}).encode()
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE)
        except FileExistsError:
            raise TryAgain(f"the lease {path} is held by another supervisor") from None
        # The name is ours from here on, also where full storage does not take the record.
        self._number = number
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)

    def _check_newest(self) -> None:
        """A name may have been free because its holder had renewed past it and removed it."""
        newest = max(_lease_numbers(self._paths), default=-1)
        if newest > self._number:
            raise TryAgain(f"the lease in {self._paths.lease} is held by another supervisor, which is at {newest}")
