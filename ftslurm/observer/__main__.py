"""The observer's process: lines of JSON come in, metrics and messages go out. `ftslurm.runtime.observing` starts it."""

from __future__ import annotations

import itertools
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftslurm import journal
from ftslurm.errors import FtslurmError
from ftslurm.insight.text import visible
from ftslurm.observer.exposure import Exposure, exposure_of
from ftslurm.observer.families import Live, families
from ftslurm.observer.notices import Noticing
from ftslurm.observer.tally import Tally
from ftslurm.observer.telling import Told, Way
from ftslurm.paths import RunPaths
from ftslurm.runtime import logs

log = logging.getLogger(__name__)

REFRESH_S = 2.0
TELL_S = 8.0
_ENTRY = '{"entry":'


class Observer:
    """Follows one run under one supervisor."""

    def __init__(self, paths: RunPaths, job: Mapping[str, str], wanted: Mapping[str, Any]) -> None:
        """`job` are the facts on the run's job, `wanted` the section `observe` of its configuration."""
        self._paths = paths
        self._lock = threading.Lock()
        self._tally = Tally(paths.key.stat().st_mtime)
        self._live = Live(
            run=paths.run_id, name=job["name"], job_id=job["job_id"], user=job["user"], partition=job["partition"]
        )
        self._noticing = Noticing()
        about = {"run_id": paths.run_id, "name": visible(job["name"]), "job_id": visible(job["job_id"])}
        self._told = [Told(Way.of(each), about) for each in wanted["notify"]]
        self._exposure: Exposure | None = exposure_of(wanted["metrics"], paths, wanted["metrics_dir"], self._families)
        self._due = 0.0
        self._ill = False

    def catch_up(self) -> None:
        """Learn from the journal what was before; nobody is told of that."""
        try:
            for entry in journal.read(self._paths):
                self._tally.see(entry)
                self._noticing.see(entry)
        except FtslurmError as error:
            log.warning("metrics begin here, since the journal cannot be read: %s", error)

    def take(self, line: str) -> bool:
        """Take a line of the supervisor's; False after the last one."""
        if line.startswith(_ENTRY):
            self._see(journal.parse_line(line[len(_ENTRY) : -1]))
            return True
        told: dict[str, Any] = json.loads(line)
        if "now" in told:
            with self._lock:
                self._live.take(told["now"])
            self._due = 0.0
        return not told.get("end")

    def _see(self, entry: journal.Entry) -> None:
        if entry.number < self._tally.entries:
            return
        with self._lock:
            self._tally.see(entry)
        for notice in self._noticing.see(entry):
            for each in self._told:
                each.take(notice)

    def refresh(self) -> None:
        """Give the metrics anew, if it is time."""
        if self._exposure is None or time.monotonic() < self._due or not self._live.t:
            return
        self._due = time.monotonic() + REFRESH_S
        try:
            self._exposure.refresh()
        except OSError as error:
            if not self._ill:
                log.warning("the metrics cannot be written: %s", error)
            self._ill = True
        else:
            self._ill = False

    def close(self) -> None:
        """The supervisor ends: no series stays, what is still to be told is told, a run that has ended is summed up."""
        if self._exposure is not None:
            try:
                self._exposure.remove()
            except OSError as error:
                log.warning("the metrics cannot be taken away: %s", error)
        deadline = time.monotonic() + TELL_S
        for each in self._told:
            each.close(max(deadline - time.monotonic(), 0.1))
        from ftslurm.insight import filed

        filed.leave(self._paths)

    def _families(self) -> list[Any]:
        with self._lock:
            return list(families(self._tally, self._live, max(time.time(), self._live.t)))


def observe(paths: RunPaths, lines: Iterator[str]) -> None:
    """Follow a run until the lines end. Where they end without the word, the supervisor was killed: metrics stay."""
    told = json.loads(next(lines))
    observer = Observer(paths, told["job"], told["observe"])
    observer.catch_up()
    for line in lines:
        if not observer.take(line.rstrip("\n")):
            observer.close()
            return
        observer.refresh()


def main(argv: Sequence[str]) -> int:
    """Follow the run whose folder is given."""
    # Slurm ends all processes of a job together; this one ends after the supervisor, when its input does.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    paths, first = RunPaths(Path(argv[0])), sys.stdin.readline()
    if not first:
        return 0  # the supervisor has ended before it had anything to tell
    job_id = json.loads(first)["job"]["job_id"]
    logs.to_file(logs.Process(paths=paths, role="observer", job_id=job_id, node=logs.own_node()), logging.WARNING)
    try:
        observe(paths, itertools.chain([first], sys.stdin))
    except FtslurmError as error:
        log.error("the observer ends: %s", error)  # noqa: TRY400 - one sentence for the user
        return error.exit_code
    except OSError as error:
        log.error("the observer ends: %s", error)  # noqa: TRY400
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
