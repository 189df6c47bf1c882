"""Log files of ftslurm's own processes: ECS JSON lines, written by a thread, so that no log call waits for storage."""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path

import ecs_logging

from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER


class _PrivateFile(logging.FileHandler):
    """Opens late and for the user alone; what cannot be written stays in the queue's order and is reported once."""

    _ill = _failed = False

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, PRIVATE_FILE)
        return os.fdopen(handle, "a", encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, after what the stream still has of those that could not be written before."""
        self._failed = False
        super().emit(record)
        self._ill = self._failed

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Say it on stderr, at the first of several failures in a row."""
        self._failed = True
        if not self._ill:
            super().handleError(record)


def to_file(path: Path, labels: Mapping[str, str], level: int = logging.INFO) -> None:
    """Send every log record of this process to `path`, with these labels on each line."""
    handler = _PrivateFile(path, delay=True)
    handler.setFormatter(ecs_logging.StdlibFormatter(extra={"labels": dict(labels), "service.name": "ftslurm"}))
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(waiting, handler)
    listener.start()
    root = logging.getLogger()
    root.addHandler(logging.handlers.QueueHandler(waiting))
    root.setLevel(level)
