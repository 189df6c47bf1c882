"""What the agent of a node and the library in a training program hand to each other.

The agent hands over names of places in the environment of each rank (`Handover`), orders to save or stop in a small
file that is written whole (`Order`), the LOCAL records of generations that are whole on the nodes, and files of a
generation on request. Requests go over a unix stream socket of the agent, one connection for each::

    {"op": "fetch", "generation": "000000120-0000", "name": "00003.bin"}
        -> {"path": "/scratch/...", "source": "partner"}    the whole file, verified, which lies on this node now
        -> {"error": "...", "damaged": true}                it cannot be had; damaged: no copy has the right bytes
        -> {"wait": true}                                   still at it; the answer follows on another line
    {"op": "refused", "generation": "000000120-0000", "reason": "..."} -> {}    it could not be loaded
    {"op": "failed", "generation": "000000140-0000", "reason": "..."} -> {}     it could not be saved

One line of JSON each, as `core.strictjson` spells it. A path of a socket has at most 107 bytes (unix(7)), scratch
folders have more: both sides reach it through the descriptor of its folder. Only the standard library is needed here.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ftslurm.checkpoint import disk
from ftslurm.core.manifest import parse_generation
from ftslurm.core.strictjson import decode, encode, fields_of, plain_name, refuse, whole
from ftslurm.errors import DataDamaged, StorageError

RUN_ID = "FTSLURM_RUN_ID"
RUN_DIR = "FTSLURM_RUN_DIR"
ATTEMPT = "FTSLURM_ATTEMPT"
CHECKPOINT = "FTSLURM_CHECKPOINT"
CHECKPOINT_DIR = "FTSLURM_CHECKPOINT_DIR"
CHECKPOINT_TAG = "FTSLURM_CHECKPOINT_TAG"
STORE_SOCKET = "FTSLURM_STORE_SOCKET"
SAVE_POLICY = "FTSLURM_SAVE_POLICY"
MTBF_S = "FTSLURM_MTBF_S"
END_TIME = "FTSLURM_END_TIME"
JOB_END_TIME = "SLURM_JOB_END_TIME"

LINE_BYTES = 1 << 16
SILENCE_S = 600.0
"""How long the agent may say nothing, not even that it is still at it."""
TELL_S = 10.0
_MAX_NUMBER = 10**15


class Op(StrEnum):
    """What is asked for."""

    FETCH = "fetch"
    REFUSED = "refused"
    FAILED = "failed"


# ----------------------------------------------------------------------------------------------- the environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What ftslurm has put into a rank's environment; `restored` is empty where there is nothing to restore."""

    run_id: str
    attempt: int
    write: Path
    restored: str = ""
    socket: str = ""
    policy: str = ""
    mtbf_s: float = 0.0

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Handover | None:
        """None outside of ftslurm."""
        folder = environ.get(CHECKPOINT_DIR, "")
        attempt = environ.get(ATTEMPT, "")
        if not (environ.get(RUN_ID) and folder and attempt.isdecimal()):
            return None
        return cls(
            run_id=environ[RUN_ID],
            attempt=int(attempt),
            write=Path(folder),
            restored=environ.get(CHECKPOINT, ""),
            socket=environ.get(STORE_SOCKET, ""),
            policy=environ.get(SAVE_POLICY, ""),
            mtbf_s=_seconds(environ.get(MTBF_S, "")),
        )


def end_time(environ: Mapping[str, str]) -> float | None:
    """When the job's time is up, in seconds since 1970: from ftslurm, else from Slurm; None where nobody says."""
    return _seconds(environ.get(END_TIME, "")) or _seconds(environ.get(JOB_END_TIME, "")) or None


def _seconds(text: str) -> float:
    try:
        return max(float(text), 0.0)
    except ValueError:
        return 0.0


# ------------------------------------------------------------------------------------------------------- orders


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the supervisor asks of the program: a save, or a save and an end.

    `number` grows with each order of an attempt; orders of another attempt are left from before and mean nothing.
    `why` is a word: time_limit, operator, node_warning, preempt.
    """

    attempt: int
    number: int
    save: bool = True
    stop: bool = False
    why: str

    def to_bytes(self) -> bytes:
        """As it stands in the file."""
        record = {"attempt": self.attempt, "number": self.number, "save": self.save, "stop": self.stop}
        return encode({**record, "why": self.why})

    @classmethod
    def from_bytes(cls, data: bytes) -> Order:
        """Raises DataDamaged for anything that `to_bytes` cannot have written."""
        fields = fields_of(decode(data, "order"), ("attempt", "number", "save", "stop", "why"), "order")
        for name in ("save", "stop"):
            if not isinstance(fields[name], bool):
                refuse(f"{name}={fields[name]!r} of the order is neither true nor false")
        return cls(
            attempt=whole(fields["attempt"], "attempt of the order", _MAX_NUMBER),
            number=whole(fields["number"], "number of the order", _MAX_NUMBER),
            save=fields["save"],
            stop=fields["stop"],
            why=plain_name(fields["why"], "reason of the order"),
        )


def orders_path(write: Path) -> Path:
    """Where orders lie, from the folder that the program writes to."""
    return write.parent / "orders.json"


def local_record_path(write: Path, generation: str) -> Path:
    """Where the sealed LOCAL record of a generation lies, from the folder that the program writes to."""
    return write.parent / "local" / f"{generation}.json"


def write_order(write: Path, order: Order) -> None:
    """Give an order to the ranks of a node; replaces the one before. Raises OSError."""
    disk.write_small(orders_path(write), order.to_bytes())


class OrderReader:
    """Looks for new orders: one stat(2) where there is none."""

    def __init__(self, write: Path, attempt: int) -> None:
        self._path = orders_path(write)
        self._attempt = attempt
        self._seen: tuple[int, int] = (0, 0)
        self._number = -1

    def look(self) -> Order | None:
        """Return an order that was not there at the last look. What cannot be read is no order."""
        try:
            about = self._path.stat()
            seen = (about.st_ino, about.st_mtime_ns)
            if seen == self._seen:
                return None
            order = Order.from_bytes(disk.read_small(self._path.parent, self._path.name, LINE_BYTES))
        except (OSError, DataDamaged):
            return None
        self._seen = seen
        if order.attempt != self._attempt or order.number <= self._number:
            return None
        self._number = order.number
        return order


# ----------------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question of a rank to its agent."""

    op: Op
    generation: str
    name: str = ""
    reason: str = ""

    def to_bytes(self) -> bytes:
        """The line that is sent."""
        last = {"name": self.name} if self.op is Op.FETCH else {"reason": self.reason[:4000]}
        return encode({"op": self.op.value, "generation": self.generation, **last})

    @classmethod
    def from_bytes(cls, line: bytes) -> Request:
        """Raises DataDamaged for anything that `to_bytes` cannot have written."""
        record = decode(line, "request")
        fetch = isinstance(record, dict) and record.get("op") == Op.FETCH
        fields = fields_of(record, ("op", "generation", "name" if fetch else "reason"), "request")
        if fields["op"] not in tuple(Op):
            refuse(f"nothing is known of {fields['op']!r}")
        generation = fields["generation"]
        parse_generation(generation if isinstance(generation, str) else repr(generation))
        reason = fields.get("reason", "")
        if not isinstance(reason, str):
            refuse(f"{reason!r} is not a reason")
        name = plain_name(fields["name"], "name of the file") if fetch else ""
        return cls(op=Op(fields["op"]), generation=generation, name=name, reason=reason)


WAIT = encode({"wait": True})
"""The line that says: still at it."""
TOLD = encode({})
"""The answer to what was only told."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file that lies on this node now, every byte verified; `source`: own, partner, peer or shared."""

    path: Path
    source: str

    def to_bytes(self) -> bytes:
        """The line that answers a fetch."""
        return encode({"path": str(self.path), "source": self.source})


def failure_line(error: str, *, damaged: bool) -> bytes:
    """The line that answers a fetch of what cannot be had."""
    return encode({"error": error[:4000], "damaged": damaged})


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """A short address of the socket `path`, to bind or connect to while the context lasts. Raises OSError."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class AgentClient:
    """A rank's side of the socket; every call ends: with an answer, or an error after a time of silence."""

    def __init__(self, path: Path, silence_s: float = SILENCE_S) -> None:
        self._path = path
        self._silence_s = silence_s

    def fetch(self, generation: str, name: str) -> Fetched:
        """Have a file of a generation brought to this node.

        Raises:
            DataDamaged: no copy of it has the right bytes.
            StorageError: it cannot be had now, or the agent does not answer.
        """
        answer = self._ask(Request(op=Op.FETCH, generation=generation, name=name), self._silence_s)
        if set(answer) == {"path", "source"}:
            return Fetched(Path(str(answer["path"])), str(answer["source"]))
        kind = DataDamaged if answer.get("damaged") is True else StorageError
        raise kind(f"{name} of {generation}: {answer.get('error', 'the agent gives no reason')}")

    def tell(self, op: Op, generation: str, reason: str) -> None:
        """Let the agent know that a generation was refused or could not be saved. Raises StorageError."""
        self._ask(Request(op=op, generation=generation, reason=reason), TELL_S)

    def _ask(self, request: Request, silence_s: float) -> dict[str, Any]:
        try:
            with address_of(self._path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(silence_s)
                link.connect(address)
                link.sendall(request.to_bytes())
                return _answer(link, silence_s)
        except OSError as error:
            what = error.strerror or str(error)
            raise StorageError(f"the agent of this node does not answer at {self._path}: {what}") from error


def _answer(link: socket.socket, silence_s: float) -> dict[str, Any]:
    """The first line that is no plea for patience."""
    pending, deadline = b"", time.monotonic() + silence_s
    while True:
        line, newline, rest = pending.partition(b"\n")
        if newline:
            answer = decode(line, "answer of the agent")
            if not isinstance(answer, dict):
                refuse(f"the agent answers {answer!r}")
            if answer != {"wait": True}:
                return answer
            pending, deadline = rest, time.monotonic() + silence_s
            continue
        link.settimeout(max(deadline - time.monotonic(), 0.001))
        received = link.recv(LINE_BYTES)
        if not received or len(pending) > LINE_BYTES:
            raise StorageError("the agent of this node broke off")
        pending += received
