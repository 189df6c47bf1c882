"""The truth about what was done to a run, apart from all that the run itself writes: `<run>/faults.jsonl`.

One line of JSON for each thing that is known of an injection, the whole record each time: first that it is going to
happen, before anything is done, then when it really happened, then when it was undone. The last line of an id counts.
A torn line is one that was being written when its writer was killed.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ftslurm.core.strictjson import decode, encode
from ftslurm.errors import DataDamaged, StorageError
from ftslurm.paths import PRIVATE_FILE, RunPaths


class Outcome(StrEnum):
    """What is known of an injection. INTENDED alone: its writer was killed, and nobody knows whether it happened."""

    INTENDED = "intended"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault, made once. Times are Unix seconds, `at` by the clock of the node where it was done.

    Attributes:
        id: its name in the files of the run.
        fault: its name in the catalogue.
        at: when it was done; before that, when it was about to be.
        node: whom it was done to, empty where it was no node.
        rank: the rank that it was done to, None where it was none.
        undone_at: when it was undone; None while it lasts, and where nothing has to be undone.
        note: what was really done, or why it was not.
        draw: how the target was chosen: the seed, what could have been drawn, what was.
        outcome: whether it happened.
        attempt: the run's newest attempt then.
        part_of: the id of the double fault that it belongs to.
    """

    id: str
    fault: str
    at: float
    node: str = ""
    rank: int | None = None
    undone_at: float | None = None
    note: str = ""
    draw: Mapping[str, Any] = field(default_factory=dict)
    outcome: Outcome = Outcome.INTENDED
    attempt: int | None = None
    part_of: str = ""


def fresh_id() -> str:
    """A name that no other injection has."""
    return secrets.token_hex(6)


class Truth:
    """The file of one run; several writers may append to it."""

    def __init__(self, paths: RunPaths) -> None:
        self.path = paths.faults

    def append(self, injection: Injection) -> None:
        """Add what is known now; it is on the disk when this returns.

        Raises:
            StorageError: it cannot be written; then nothing may be done.
        """
        try:
            _append(self.path, encode(asdict(injection)))
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror}", hint="without a record of it nothing is broken"
            ) from error

    def read(self) -> list[Injection]:
        """Every injection as it is known now, in the order of their beginnings.

        Raises:
            StorageError: it cannot be read.
            DataDamaged: a complete line is none of ours.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}") from error
        found: dict[str, Injection] = {}
        for line in lines[:-1]:
            if line and not _is_torn(line):
                injection = parse(line)
                found[injection.id] = injection
        return list(found.values())


def parse(line: bytes) -> Injection:
    """One line of the file.

    Raises:
        DataDamaged: it is no record of ours.
    """
    record = decode(line, "a record of an injection")
    if not isinstance(record, dict):
        raise DataDamaged("a record of an injection is no object")
    try:
        return Injection(**{**record, "at": float(record["at"]), "outcome": Outcome(record["outcome"])})
    except (TypeError, ValueError, KeyError) as error:
        raise DataDamaged(f"a record of an injection cannot be read: {error}") from error


def _is_torn(line: bytes) -> bool:
    """Whether a line is only the beginning of one; the next writer has closed it."""
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _append(path: Path, data: bytes) -> None:
    """Append a line in one write; a torn line before it is closed first."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, PRIVATE_FILE)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(injection: Injection) -> dict[str, Any]:
    """A record for programs."""
    plain: dict[str, Any] = json.loads(encode(asdict(injection)))
    return plain
