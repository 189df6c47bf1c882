"""Log files of ftslurm's own processes: ECS JSON lines, written by a thread, so that no log call waits for storage.

Each process has a file for every attempt, `logs/<attempt>/<role>-<node>.ndjson`: two hosts that append to one file of
NFS write over each other, and a file that is never renamed can be followed by anybody. A line has a time with its zone,
a level, and labels: run_id, job_id, attempt, node, rank, role. What has no single rank has `-`. Who logs adds what is
known by `extra`: `labels` about another node, rank or attempt than its own, and what `event` makes of a thing done.

Warnings and errors also go to standard error, a line each, for people.

The rank wrapper, which runs under any Python, writes lines of the same form by itself (`runtime.pump`).
"""

from __future__ import annotations

import atexit
import copy
import logging
import logging.handlers
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ecs_logging

from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER, RunPaths
from ftslurm.slurm.env import NODE_NAME

MOST_WAITING = 10_000
"""Lines that wait for storage which takes none; what comes then is counted and dropped."""
NO_RANK = "-"
TOLD = "ftslurm.told"
"""The logger of what people have been told in another way already: it is not said to them once more."""
FINISH_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Who logs."""

    paths: RunPaths
    role: str
    job_id: str
    node: str

    def labels(self) -> dict[str, str]:
        """What stands on each line, unless the line says otherwise."""
        about = {"run_id": self.paths.run_id, "job_id": self.job_id, "node": self.node, "role": self.role}
        return {**about, "rank": NO_RANK}


def own_node(environ: Mapping[str, str] = os.environ) -> str:
    """Return the node that this process runs on, by Slurm's name for it."""
    return environ.get(NODE_NAME) or socket.gethostname().partition(".")[0]


def to_file(who: Process, level: int = logging.INFO, *, speaks: bool = True) -> None:
    """Send every log record of this process to its files; with `speaks` warnings also to standard error."""
    waiting: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
    writers: list[logging.Handler] = [_Files(who), *([_Speech(who)] if speaks else [])]
    root = logging.getLogger()
    root.addHandler(_Queue(waiting, who, _write_in_a_thread(waiting, writers)))
    root.setLevel(level)
    atexit.register(finish)


def of_attempt(number: int) -> None:
    """Say which attempt the lines from now on belong to. Until then it is the one that `logs/current` names."""
    for handler in _queues():
        handler.attempt = number


def finish(timeout_s: float | None = None) -> None:
    """Write what waits, for a bounded time: before os._exit; other ends of a process do it by themselves."""
    for handler in _queues():
        handler.finish(FINISH_S if timeout_s is None else timeout_s)


def event(action: str, *, well: bool, took_s: float | None = None, **labels: object) -> dict[str, Any]:
    """Return the `extra` of a line about something that was done: what, how it ended, how long it took."""
    found: dict[str, Any] = {"event.action": action, "event.outcome": "success" if well else "failure"}
    if took_s is not None:
        found["event.duration"] = round(took_s * 1e9)
    return {**found, "labels": {name: str(value) for name, value in labels.items()}}


def complain(log: logging.Logger, error: BaseException | None, what: object) -> None:
    """Log what came out of a thread, if it was an error."""
    if error is not None:
        log.error("%s failed", what, exc_info=error)


def _queues() -> list[_Queue]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Queue)]


def _write_in_a_thread(
    waiting: queue.SimpleQueue[logging.LogRecord | None], writers: list[logging.Handler]
) -> threading.Thread:
    """Start the thread that writes; signals are other threads' business."""

    def write() -> None:
        while (record := waiting.get()) is not None:
            for writer in writers:
                if record.levelno >= writer.level:
                    writer.handle(record)

    thread = threading.Thread(target=write, name="logs", daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    thread.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread


class _Queue(logging.handlers.QueueHandler):
    """Takes records of all threads; labels them, and never waits."""

    attempt: int | None = None

    def __init__(
        self, waiting: queue.SimpleQueue[logging.LogRecord | None], who: Process, writer: threading.Thread
    ) -> None:
        super().__init__(waiting)
        self._waiting = waiting
        self._labels = who.labels()
        self._writer = writer
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """As it is now, with its labels; unlike the base class, with its exception, which belongs into `error.*`."""
        ready = copy.copy(record)
        ready.msg, ready.args = record.getMessage(), None
        attempt = {} if self.attempt is None else {"attempt": str(self.attempt)}
        vars(ready)["labels"] = {**self._labels, **attempt, **getattr(record, "labels", {})}
        if record.levelno >= logging.ERROR:
            vars(ready).setdefault("event.outcome", "failure")
        return ready

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put it into the queue, or count it where too many wait."""
        if self._waiting.qsize() >= MOST_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            text = f"{self._dropped} lines are missing here: too many waited to be written"
            missing = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
            self._dropped = 0
            self._waiting.put(self.prepare(missing))
        self._waiting.put(record)

    def finish(self, timeout_s: float) -> None:
        """Have the thread write what is there and end."""
        self._waiting.put(None)
        self._writer.join(timeout_s)


class _Formatter(ecs_logging.StdlibFormatter):
    """ECS, with the traceback whole: the package's own leaves out the exceptions that led to this one."""

    def __init__(self) -> None:
        super().__init__(extra={"service.name": "ftslurm", "host.hostname": socket.gethostname()})

    def _record_error_stack_trace(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else None


class _OneThreads(logging.Handler):
    """Used by one thread. It has no lock: nobody who wants to end may wait for a thread that hangs in a write."""

    def createLock(self) -> None:  # noqa: N802 - logging's own name
        """Make none."""
        self.lock = None


class _Files(_OneThreads):
    """Appends each line to the file of its attempt. What cannot be written is kept, and told on stderr once."""

    def __init__(self, who: Process) -> None:
        super().__init__()
        self.setFormatter(_Formatter())
        self._who = who
        self._pending: deque[tuple[Path, bytes]] = deque(maxlen=MOST_WAITING)
        self._path, self._descriptor = Path(), -1
        self._ill = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, after those that could not be written before."""
        labels = vars(record)["labels"]
        labels.setdefault("attempt", self._current())
        path = self._who.paths.process_log(labels["attempt"], self._who.role, self._who.node)
        self._pending.append((path, self.format(record).encode() + b"\n"))
        try:
            self._write()
            self._ill = False
        except OSError as error:
            if not self._ill:
                _say(f"ftslurm: {path} cannot be written: {error.strerror or error}; the lines wait")
            self._ill = True

    def _current(self) -> str:
        try:
            name = self._who.paths.current_logs.readlink().name
        except OSError:
            return "0"  # nothing has been started yet
        return name if name.isdecimal() else "0"

    def _write(self) -> None:
        while self._pending:
            path, data = self._pending[0]
            if path != self._path or self._descriptor < 0:
                self._open(path)
            done = os.write(self._descriptor, data)
            if done < len(data):
                self._pending[0] = (path, data[done:])
            else:
                self._pending.popleft()

    def _open(self, path: Path) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor, self._path = os.open(path, flags, PRIVATE_FILE), path


class _Speech(_OneThreads):
    """Warnings and errors for people. A terminal may read them: what it would act on is escaped."""

    def __init__(self, who: Process) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(lambda record: record.name != TOLD)
        self._who = f"{who.role} {who.node}"

    def emit(self, record: logging.LogRecord) -> None:
        """One line, with a time, a level and who says it."""
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{record.levelname.lower()}: {self._who}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        _say(f"[ftslurm {stamp}] {shown(text)}")


def shown(text: str) -> str:
    """`text` on one line; what a terminal would act on, if somebody reads it there, is written as an escape."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return text if text.isprintable() else "".join(escaped)


def _say(text: str) -> None:
    """Print on stderr; where that lies on storage that takes nothing, the line is in the file, or nowhere."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        time.sleep(0.1)
