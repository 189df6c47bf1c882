"""A campaign on the disk: its plan and schedule, what was done so far, and what was kept of its runs.

    <home>/campaigns/<name>/lock
    <home>/campaigns/<name>/<id>/plan.yaml  config.yaml  schedule.json  log.jsonl  runs/<run id>/  score.json

The log is appended to and fsynced, a line for each thing that was done; a campaign that was cut short is gone on with
from there. A torn last line is legal. `score.json` stands for the end: such a campaign is never gone on with.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftslurm.core.strictjson import encode
from ftslurm.errors import CannotCreate, StorageError, TryAgain, UsageError
from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER, RunPaths, campaigns

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Book:
    """The folder of one campaign."""

    folder: Path

    @property
    def name(self) -> str:
        """The name of its plan."""
        return self.folder.parent.name

    @property
    def plan(self) -> Path:
        """The plan as it was when the campaign began."""
        return self.folder / "plan.yaml"

    @property
    def config(self) -> Path:
        """The configuration that is run, as it was then."""
        return self.folder / "config.yaml"

    @property
    def schedule(self) -> Path:
        """What was drawn."""
        return self.folder / "schedule.json"

    @property
    def log(self) -> Path:
        """What was done."""
        return self.folder / "log.jsonl"

    @property
    def runs(self) -> Path:
        """What was kept of the runs."""
        return self.folder / "runs"

    @property
    def score(self) -> Path:
        """The score; it is there when the campaign is over."""
        return self.folder / "score.json"

    @property
    def over(self) -> bool:
        """Whether the campaign is over."""
        return self.score.exists()

    def note(self, what: str, **facts: object) -> None:
        """Write down something that was done; it is on the disk when this returns.

        Raises:
            StorageError: it cannot be written.
        """
        line = encode({"t": round(time.time(), 3), "what": what, **facts})
        try:
            handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, PRIVATE_FILE)
            try:
                os.write(handle, line)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(f"cannot write {self.log}: {error.strerror}") from error

    def notes(self) -> list[dict[str, Any]]:
        """Everything that was done, in order; a torn line is left out."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    found.append(json.loads(line))
        return [each for each in found if isinstance(each, dict) and "what" in each]

    def done(self, leg: int) -> frozenset[int]:
        """The draws of a leg that were seen to."""
        return frozenset(each["draw"] for each in self.notes() if each.get("leg") == leg and "draw" in each)

    def count(self, what: str) -> int:
        """How often something was done."""
        return sum(each["what"] == what for each in self.notes())

    def last(self, what: str) -> dict[str, Any]:
        """The newest note of a kind; empty without one."""
        return next((each for each in reversed(self.notes()) if each["what"] == what), {})

    def open_run(self) -> RunPaths | None:
        """The run that was begun, or attacked, and has not ended as far as was seen."""
        begun, ended = self.last("begun"), {each["run"] for each in self.notes() if each["what"] == "ended"}
        return RunPaths(Path(begun["folder"])) if begun and begun["run"] not in ended else None

    def kept(self) -> list[RunPaths]:
        """The runs whose remains are here, oldest first."""
        begun = [str(each["run"]) for each in self.notes() if each["what"] == "begun" and each.get("for") != "measure"]
        return [RunPaths(self.runs / run) for run in dict.fromkeys(begun) if (self.runs / run).is_dir()]


def beginnings(name: str) -> Path:
    """The folder of all campaigns of a plan's name, made if need be.

    Raises:
        CannotCreate: it cannot be made.
    """
    folder = campaigns() / name
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreate(f"cannot create {folder}: {error.strerror}", hint="set FTSLURM_HOME") from error
    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work on the campaigns of a name.

    Raises:
        TryAgain: another one does.
    """
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TryAgain(f"campaign {folder.name} is running already") from None
        yield


def books(folder: Path) -> list[Book]:
    """The campaigns of a name, oldest first."""
    found = [path for path in folder.iterdir() if (path / "schedule.json").is_file()] if folder.is_dir() else []
    return [Book(path) for path in sorted(found, key=lambda path: (path / "schedule.json").stat().st_mtime_ns)]


def find(folder: Path, wanted: str) -> Book | None:
    """The campaign to go on with: the one of this id, or without an id the newest that is not over; None: a new one.

    Raises:
        UsageError: such an id cannot be.
    """
    if wanted and not ID.fullmatch(wanted):
        raise UsageError(f"a campaign cannot have the id {wanted[:80]!r}", hint="letters, digits, '.', '_' and '-'")
    known = books(folder)
    if wanted:
        return next((book for book in known if book.folder.name == wanted), None)
    return known[-1] if known and not known[-1].over else None


def fresh(folder: Path, wanted: str, texts: Mapping[str, str], schedule: bytes) -> Book:
    """Begin a new campaign with copies of its files; the schedule, written last, makes it one.

    Raises:
        CannotCreate: its folder cannot be made or written.
    """
    book = Book(folder / (wanted or time.strftime("%Y%m%d-%H%M%S")))
    try:
        book.folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        for name, text in texts.items():
            replace(book.folder / name, text.encode())
        replace(book.schedule, schedule)
    except OSError as error:
        raise CannotCreate(f"cannot write {book.folder}: {error.strerror}", hint="set FTSLURM_HOME") from error
    return book


def replace(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
