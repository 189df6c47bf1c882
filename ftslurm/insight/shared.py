"""Slurm's word on jobs, asked once for all displays of a user on a host.

Ten terminals that watch runs must not ask slurmctld ten times as often as one. So the answer lies in a file of the
user's own folder on the host, with the moment when it was given. Who finds it too old asks, for itself and for what the
others have asked about lately, and holds a lock while it asks; the others go on with what there is.

An answer is asked for every 5 s at most, more seldom while nothing changes, and seldom while Slurm does not answer.
flock(2), rename(2).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import which
from typing import Protocol

from ftslurm.errors import FtslurmError
from ftslurm.insight import codec
from ftslurm.paths import PRIVATE_FILE, host_folder
from ftslurm.slurm.client import TIMEOUT_S
from ftslurm.slurm.records import JobInfo

log = logging.getLogger(__name__)

EVERY_S = 5.0
SELDOM_S = 30.0
LONGER = 1.5
WANTED_S = 60.0
"""For how long a job is asked about after somebody wanted to know of it."""

POLL_S = 0.05
OLD_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Slurm said of jobs at `at` (epoch seconds); `jobs` is None where it said nothing, and `problem` says why.

    `about` has every job that it was asked about, with the moment when somebody wanted to know; the answer holds for
    `pause_s`.
    """

    at: float = 0.0
    pause_s: float = 0.0
    about: Mapping[str, float] = field(default_factory=dict)
    jobs: Mapping[str, JobInfo] | None = None
    problem: str = ""

    def serves(self, wanted: Collection[str], now: float) -> bool:
        """Whether it need not be asked again. A clock that was set back makes it old."""
        return 0.0 <= now - self.at < self.pause_s and all(job in self.about for job in wanted)


class Client(Protocol):
    """Who asks Slurm, and in which environment."""

    @property
    def environ(self) -> Mapping[str, str]:
        """The variables that tell which Slurm it is."""
        ...

    def jobs(self, job_ids: Iterable[str], /) -> Mapping[str, JobInfo]:
        """What slurmctld knows of these jobs; raises FtslurmError where it does not answer."""
        ...


def ask(client: Client, wanted: Collection[str]) -> Answer:
    """Ask now, for oneself alone."""
    now = time.time()
    try:
        jobs, problem = client.jobs(wanted), ""
    except FtslurmError as error:
        jobs, problem = None, f"Slurm cannot be asked, so this is what the journals say: {error}"
    return Answer(at=now, about=dict.fromkeys(wanted, now), jobs=jobs, problem=problem)


class Shared:
    """The answer that all displays of this user share, on this host and for this Slurm."""

    def __init__(self, client: Client, folder: Path | None = None) -> None:
        """`folder` is the user's on this host, if not the usual one."""
        self._client = client
        self._folder = folder or host_folder()
        self._file = self._folder / f"slurm-{_which_slurm(self._client.environ)}.json"
        self._last = Answer()
        self._sharing = True

    def answer(self, wanted: Collection[str]) -> Answer:
        """What Slurm says of these jobs, as far as it is known; waits for an answer only where there is none at all."""
        if not wanted:
            return Answer(at=time.time(), jobs={})
        deadline = time.monotonic() + TIMEOUT_S + EVERY_S
        while True:
            found = self._known()
            if found.serves(wanted, time.time()):
                return found
            with self._alone() as alone:
                if alone:
                    return self._asked(wanted)
            # Somebody asks just now. What was known lately is shown meanwhile.
            if found.at > time.time() - OLD_S and all(job in found.about for job in wanted):
                return found
            if time.monotonic() > deadline:
                return Answer(at=time.time(), problem="Slurm is being asked by another ftslurm, which does not end")
            time.sleep(POLL_S)

    def _asked(self, wanted: Collection[str]) -> Answer:
        """Ask, unless somebody has done so while we came."""
        before, now = self._known(), time.time()
        if before.serves(wanted, now):
            return before
        lately = {job: t for job, t in before.about.items() if 0.0 <= now - t < WANTED_S}
        about = lately | dict.fromkeys(wanted, now)
        found = ask(self._client, about)
        same = found.jobs == (None if before.jobs is None else {job: before.jobs[job] for job in _kept(before, found)})
        pause_s = min(max(before.pause_s, EVERY_S) * LONGER, SELDOM_S) if same or found.jobs is None else EVERY_S
        self._last = replace(found, about=about, pause_s=pause_s, at=time.time())
        self._write(self._last)
        return self._last

    def _known(self) -> Answer:
        """The newest answer, of the file or of our own."""
        if not self._sharing:
            return self._last
        try:
            handle = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as file:
                about = os.fstat(handle)
                private = about.st_uid == os.geteuid() and not about.st_mode & 0o077
                found = codec.build(Answer, json.load(file)) if private else Answer()
        except FileNotFoundError:
            return self._last
        except (OSError, ValueError, RecursionError) as error:
            log.info("%s cannot be read, and counts for nothing: %s", self._file, error)
            return self._last
        return found if found.at >= self._last.at else self._last

    def _write(self, answer: Answer) -> None:
        if not self._sharing:
            return
        part = self._folder / f".{secrets.token_hex(6)}.part"
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE)
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
                json.dump(codec.plain(answer), file)
            part.replace(self._file)
        except OSError as error:
            # A full /tmp: then each display asks for itself, as seldom as this one.
            log.info("Slurm's answer cannot be shared: %s", error)
            part.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether nobody else asks just now; where there can be no lock, everybody asks for himself."""
        from ftslurm.runtime.keys import private_folder

        try:
            private_folder(self._folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self._file.with_suffix(".lock"), flags, PRIVATE_FILE)
        except (OSError, FtslurmError) as error:
            log.info("Slurm's answers cannot be shared: %s", error)
            self._sharing = False
            yield True
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(handle)


def _kept(before: Answer, found: Answer) -> Iterator[str]:
    """The jobs of an earlier answer that were asked about again."""
    return (job for job in before.jobs or () if job in found.about)


def _which_slurm(environ: Mapping[str, str]) -> str:
    """Which cluster is asked, and by which program: answers of another one are none."""
    names = [environ.get(name, "") for name in ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CONF_SERVER")]
    program = which("squeue", path=environ.get("PATH"))
    return hashlib.blake2b(
        "\0".join([*names, str(program)]).encode("utf-8", "surrogateescape"), digest_size=6
    ).hexdigest()
