"""Parts of checkpoints between agents: raw data in the frames of the control channel, on a port and in threads apart.

Who asks has proved that it holds the run's key; who answers reads only below its own scratch, by names that cannot lead
out of it. Nobody trusts the other's bytes: the asking side compares every chunk before it is written
(`checkpoint.copying`). Everything has a deadline. The agent's event loop carries none of the data, so that beats are on
time; it only tells the port (`store?`).

    {"op": "manifest", "generation", "owner"}              -> {"size": n}, data
    {"op": "file", "generation", "owner", "name", "start"} -> {"size": n}, data of at most 1 MiB each, up to n
                                                           -> {"error": "...", "missing": bool}
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.digest import blocks
from ftslurm.checkpoint.layout import GenerationPaths, manifest_name
from ftslurm.core.manifest import CHUNK_BYTES, MANIFEST_LIMIT_BYTES, FileEntry, node_name, parse_generation
from ftslurm.core.strictjson import safe_name, whole
from ftslurm.errors import DataDamaged
from ftslurm.runtime.control import Credentials
from ftslurm.runtime.doorkeeper import Doorkeeper
from ftslurm.runtime.wire import Wire, WireError

log = logging.getLogger(__name__)

MEET_S = 5.0
STALL_S = 30.0
"""How long one end may say nothing, or take nothing."""
IDLE_S = 10.0
MOST = 32
READ_BYTES = 1 << 18
_MAX_SIZE = 1 << 60
PORT_QUESTION = "store?"

Tree = Callable[[str, str], GenerationPaths | None]
"""(generation, owner) -> where this node keeps that part; None: it has no place for it."""


class Line:
    """A blocking connection whose ends have proved that they hold the key. Raises OSError whatever goes wrong."""

    def __init__(self, sock: socket.socket, wire: Wire) -> None:
        self._sock, self._wire = sock, wire
        self._inbox: deque[dict[str, Any]] = deque()
        wire.takes_data = True
        # Else a small answer behind another one waits for an acknowledgement, which may take 40 ms (RFC 896, 1122).
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def meet(self) -> None:
        """Take the handshake to its end."""
        self._sock.settimeout(MEET_S)
        self._flush()
        while not self._wire.ready:
            self._take_in()
            self._flush()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        self._wire.send(message)
        self._flush()

    def send_data(self, data: bytes | memoryview) -> None:
        """Send raw data."""
        self._wire.send_data(data)
        self._flush()

    def receive(self, wait_s: float = STALL_S) -> dict[str, Any]:
        """Return the next message; raw data is `{"data": bytes}`."""
        self._sock.settimeout(wait_s)
        while not self._inbox:
            self._take_in()
        return self._inbox.popleft()

    def _flush(self) -> None:
        data = self._wire.take()
        if data:
            self._sock.settimeout(STALL_S)
            self._sock.sendall(data)

    def _take_in(self) -> None:
        data = self._sock.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the other node has hung up")
        try:
            self._inbox += self._wire.feed(data)
        except WireError as error:
            raise ConnectionAbortedError(errno.ECONNABORTED, f"the other node is not of this run: {error}") from error


# ------------------------------------------------------------------------------------------------------ asking


@contextmanager
def dialled(address: tuple[str, int], who: Credentials, hello: Mapping[str, Any]) -> Iterator[Line]:
    """A line to a server of this run. Raises OSError."""
    with socket.create_connection(address, timeout=MEET_S) as sock:
        line = Line(sock, Wire(who.key, who.run_id, hello))
        line.meet()
        yield line


def store_address(control: tuple[str, int], who: Credentials) -> tuple[str, int]:
    """Ask an agent, at the address of its control channel, where its parts can be had. Raises OSError."""
    with dialled(control, who, {"role": "peer"}) as line:
        line.send({"t": PORT_QUESTION})
        return control[0], _number(line.receive(MEET_S), "port", 1 << 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPart:
    """The part of `owner` as another node has it: a `checkpoint.copying.Remote`. Every call is a connection."""

    node: str
    control: tuple[str, int]
    who: Credentials
    generation: str
    owner: str

    def __str__(self) -> str:
        return f"{self.node}:{self.generation}"

    def manifest(self) -> bytes:
        """The manifest's bytes."""
        with self._asked({"op": "manifest"}) as (line, size):
            if size > MANIFEST_LIMIT_BYTES:
                raise _nonsense(f"{self}: a manifest of {size} bytes")
            pieces, left = [], size
            while left > 0:
                pieces.append(_data(line.receive()))
                left -= len(pieces[-1])
            return b"".join(pieces)

    def blocks(self, entry: FileEntry, start: int) -> Iterator[tuple[int, memoryview]]:
        """The file's bytes, as the other node has them."""
        with self._asked({"op": "file", "name": entry.name, "start": start}) as (line, _):
            offset = start
            while offset < entry.size:
                block = _data(line.receive())
                if len(block) != min(CHUNK_BYTES, entry.size - offset):
                    raise _nonsense(f"{self}/{entry.name}: {len(block)} bytes at {offset}")
                yield offset, memoryview(block)
                offset += len(block)

    @contextmanager
    def _asked(self, request: Mapping[str, Any]) -> Iterator[tuple[Line, int]]:
        with dialled(store_address(self.control, self.who), self.who, {"role": "store"}) as line:
            line.send({**request, "generation": self.generation, "owner": self.owner})
            answer = line.receive()
            if "error" in answer:
                missing = answer.get("missing") is True
                kind, code = (FileNotFoundError, errno.ENOENT) if missing else (OSError, errno.EIO)
                raise kind(code, f"{self.node} says: {str(answer['error'])[:500]}", str(self))
            yield line, _number(answer, "size", _MAX_SIZE)


def _data(message: Mapping[str, Any]) -> bytes:
    data = message.get("data")
    if not isinstance(data, bytes) or not data:
        raise _nonsense(f"{str(message.get('error', 'no data came'))[:500]}")
    return data


def _number(message: Mapping[str, Any], name: str, below: int) -> int:
    try:
        return whole(message.get(name), name, below)
    except DataDamaged as error:
        raise _nonsense(str(error)) from error


def _nonsense(text: str) -> OSError:
    return OSError(errno.EPROTO, text)


# ---------------------------------------------------------------------------------------------------- answering


class StoreServer:
    """Gives the parts that this node has to other agents of the run."""

    def __init__(self, who: Credentials, epoch: Callable[[], int], tree: Tree) -> None:
        self._who, self._epoch, self._tree = who, epoch, tree
        listener = socket.create_server(("", 0), backlog=MOST)
        self.port: int = listener.getsockname()[1]
        self._door = Doorkeeper(listener, self._serve, name="store", most=MOST)

    def start(self) -> None:
        """Begin to listen."""
        self._door.start()

    def stop(self) -> None:
        """Listen no more; what is being sent ends at its next block."""
        self._door.stop()

    def _serve(self, sock: socket.socket) -> None:
        try:
            line = Line(sock, Wire(self._who.key, self._who.run_id, {"role": "store"}, epoch=self._epoch()))
            line.meet()
            while not self._door.closing:
                self._answer(line, line.receive(IDLE_S))
        except OSError as error:
            log.debug("a line is over: %s", error)

    def _answer(self, line: Line, request: Mapping[str, Any]) -> None:
        try:
            name, start = self._wanted(request)
            with disk.opened(name[0], name[1]) as descriptor:
                size = disk.size_of(descriptor)
                line.send({"size": size})
                for _, block in blocks(descriptor, size, start):
                    if self._door.closing:
                        raise ConnectionAbortedError(errno.ECONNABORTED, "this agent leaves")
                    line.send_data(block)
        except FileNotFoundError:
            line.send({"error": "it is not here", "missing": True})
        except DataDamaged as error:
            line.send({"error": str(error), "missing": False})

    def _wanted(self, request: Mapping[str, Any]) -> tuple[tuple[Any, str], int]:
        """The folder, the name below it and the first byte that are asked for. Raises DataDamaged: not to be had so."""
        generation = str(request.get("generation"))
        parse_generation(generation)
        owner = node_name(request.get("owner"))
        place = self._tree(generation, owner)
        if place is None:
            raise FileNotFoundError(generation)
        if request.get("op") == "manifest":
            return (place.root, manifest_name(owner)), 0
        start = whole(request.get("start"), "start", _MAX_SIZE)
        if request.get("op") != "file" or start % CHUNK_BYTES:
            raise DataDamaged("nobody here understands that")
        return (place.data, safe_name(request.get("name"))), start
