"""What people ask of a run that is alive: files in `<run_dir>/requests/`, taken away when they have been seen.

`save-<anything>`: a checkpoint is wanted now. `STOP`: the run is to end (`runtime.stopfile`). Shared storage may hang;
then this thread does, and nothing else.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from ftslurm.core.events import Event, SaveRequested
from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER, RunPaths
from ftslurm.runtime.stopfile import StopFiles

log = logging.getLogger(__name__)

POLL_S = 1.0
SAVE = "save-"


class RequestWatch:
    """Looks for requests; `run` is for a thread of its own."""

    def __init__(self, paths: RunPaths, emit: Callable[[Event], None]) -> None:
        self._folder, self._emit = paths.requests, emit
        self._stops = StopFiles(paths.stops)

    def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                self.look()
            except OSError as error:
                log.debug("%s cannot be read: %s", self._folder, error)
            time.sleep(POLL_S)

    def look(self) -> None:
        """Take what is there. Several requests for the same thing are one. Raises OSError."""
        self._look_for_saves()
        asked = self._stops.look()
        if asked is not None:
            self._emit(asked)

    def _look_for_saves(self) -> None:
        try:
            names = [name for name in os.listdir(self._folder) if name.startswith(SAVE)]
        except FileNotFoundError:
            return
        for name in names:
            (self._folder / name).unlink(missing_ok=True)
        if names:
            self._emit(SaveRequested())


def request_save(folder: Path) -> Path:
    """Ask for a checkpoint; returns the file that disappears when the supervisor has seen it. Raises OSError."""
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    path = folder / f"{SAVE}{time.time_ns()}-{os.getpid()}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE))
    return path
