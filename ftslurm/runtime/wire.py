"""The control channel as a rank needs it: `Wire`, its codec without I/O, and `Link`, the connection to the agent.

Supervisor, agents and ranks talk JSON over TCP. Loopback and cluster networks are open to every user of the machine, so
nothing is acted upon unless the holder of the run's key has sent it now, on this connection, in this order.

- A frame is a length (4 bytes, big endian), an HMAC-SHA256 (32 bytes) and a JSON object; where both ends want it, a
  zero byte and raw data instead. Never pickle.
- The server greets with `{"v", "nonce", "epoch"}`, which proves nothing. The client answers with a nonce of its own and
  its hello, the server with its hello. From then on both have proved that they hold the key.
- The MAC's key is derived from the run's key, the run id, both nonces and the epoch: frames of another connection, run
  or epoch do not fit. It covers direction and sequence number: neither do replayed, skipped or reflected frames.

This file travels beside `rank.py` into users' containers: standard library only, Python 3.8 syntax.
"""
# No pathlib: importing it takes longer than all that is done before the rank has registered.
# ruff: noqa: PTH118

from __future__ import annotations

import hmac
import json
import os
import select
import socket
import struct
import time

TYPE_CHECKING = False  # importing `typing` would cost a tenth of a rank's start-up time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

VERSION = 1
MAX_FRAME, MAX_GREETING = 8 * 2**20, 4096  # bytes of JSON; the second until the peer has proved that it holds the key
READ_BYTES = 2**16
LONG = 1 << 14  # bytes from which a copy costs more than a second call
DATA = b"\0"  # what no JSON begins with
RETRY_S, MEET_S = 0.2, 2.0
HEAD = struct.Struct(">I32s")
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as it travels: one for thousands is encoded once. Raises ValueError, TypeError: not JSON."""
    return _ENCODER.encode(message).encode()


class WireError(Exception):
    """The peer broke the protocol or does not hold the key. Hang up: nothing of the offending frame was acted upon."""


class Wire:
    """One end of one connection. `feed` it what was received; send what `take` returns.

    The end that is given an `epoch` is the server; a client learns the server's. `hello` is told to the peer in the
    handshake; what the peer told is in `peer` once `ready`. Raw data is refused unless `takes_data` is set.
    """

    takes_data = False

    def __init__(self, key: bytes, run_id: str, hello: Mapping[str, Any], *, epoch: int | None = None) -> None:
        self.peer: dict[str, Any] = {}
        self.ready = False
        self.epoch = epoch or 0
        self._server = epoch is not None
        self._hello, self._key, self._run_id = hello, key, run_id
        self._nonce, self._session = os.urandom(16).hex(), b""
        self._in, self._out, self._sent, self._received = bytearray(), bytearray(), 0, 0
        if self._server:
            greeting = json.dumps({"v": VERSION, "nonce": self._nonce, "epoch": self.epoch}).encode()
            self._out += HEAD.pack(len(greeting), bytes(32)) + greeting

    @property
    def partial(self) -> bool:
        """Whether a frame has begun that has not ended."""
        return bool(self._in)

    def take(self) -> bytes:
        """Return what must be sent now; it is not returned again."""
        out, self._out = bytes(self._out), bytearray()
        return out

    def send(self, message: Mapping[str, Any] | bytes) -> None:
        """Add a message, or what `encode` made of one, to what `take` returns.

        Raises:
            WireError: before the handshake, or too large.
            ValueError, TypeError: not JSON.
        """
        if not self.ready:
            raise WireError("nothing can be sent before the handshake")
        self._seal(message)

    def send_data(self, data: bytes | memoryview) -> None:
        """Add raw data; the peer gets it as `{"data": ...}`. Raises WireError: before the handshake, or too large."""
        self.send(b"".join((DATA, data)))

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the messages that `data` completes. Raises WireError; the connection is dead then."""
        self._in += data
        messages = []
        while len(self._in) >= HEAD.size:
            size, mac = HEAD.unpack_from(self._in)
            if size > (MAX_FRAME if self.ready else MAX_GREETING):
                raise WireError(f"a frame of {size} bytes")
            end = HEAD.size + size
            if len(self._in) < end:
                break
            with memoryview(self._in) as received:
                payload = bytes(received[HEAD.size : end])
            del self._in[:end]
            if self.ready:
                messages.append(self._open(mac, payload))
            else:
                self._meet(mac, payload)
        return messages

    def _meet(self, mac: bytes, payload: bytes) -> None:
        """Take one step of the handshake."""
        if not self._server and not self._session:
            greeting = _parse(payload)
            if greeting.get("v") != VERSION:
                raise WireError(f"the peer does not speak version {VERSION}")
            self._derive(greeting.get("epoch"), greeting.get("nonce"))
            self._seal({**self._hello, "nonce": self._nonce})
            return
        if self._server:  # the nonce proves nothing yet: a wrong one only makes a key that does not fit
            self._derive(self.epoch, _parse(payload).get("nonce"))
        self.peer = self._open(mac, payload)
        if self._server:
            self._seal({**self._hello, "nonce": self._nonce})
        self.ready = True

    def _derive(self, epoch: object, nonce: object) -> None:
        if not isinstance(epoch, int) or isinstance(epoch, bool) or not isinstance(nonce, str) or len(nonce) != 32:
            raise WireError("a greeting without a nonce or an epoch")
        nonces = (self._nonce, nonce) if self._server else (nonce, self._nonce)
        bound = json.dumps([f"ftslurm-control-{VERSION}", self._run_id, *nonces, epoch]).encode()
        self.epoch, self._session = epoch, hmac.digest(self._key, bound, "sha256")

    def _seal(self, message: Mapping[str, Any] | bytes) -> None:
        payload = message if isinstance(message, bytes) else encode(message)
        if len(payload) > (MAX_FRAME if self.ready else MAX_GREETING):
            raise WireError(f"a message of {len(payload)} bytes is too large")
        self._out += HEAD.pack(len(payload), self._mac(self._sent, payload, from_server=self._server))
        self._out += payload
        self._sent += 1

    def _open(self, mac: bytes, payload: bytes) -> dict[str, Any]:
        if not hmac.compare_digest(mac, self._mac(self._received, payload, from_server=not self._server)):
            raise WireError("a frame that no holder of the key has sent here, now and in this order")
        self._received += 1
        if self.takes_data and self.ready and payload[:1] == DATA:
            return {"data": payload[1:]}
        return _parse(payload)

    def _mac(self, number: int, payload: bytes, *, from_server: bool) -> bytes:
        place = struct.pack(">?Q", from_server, number)
        if len(payload) < LONG:
            return hmac.digest(self._session, place + payload, "sha256")
        mac = hmac.new(self._session, place, "sha256")
        mac.update(payload)  # without a copy of it, and other threads run meanwhile
        return mac.digest()


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise WireError("not a JSON object")
    return found


def read_private(path: str) -> bytes:
    """Return the content (up to 64 KiB) of a file that nobody else could read or write. Raises OSError, ValueError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        about = os.fstat(fd)
        if about.st_uid != os.geteuid() or about.st_mode & 0o170077 != 0o100000:
            raise ValueError(f"{path} is not a private file of ours")
        return os.read(fd, 2**16)
    finally:
        os.close(fd)


def find_agent(environ: Mapping[str, str]) -> dict[str, Any]:
    """Read the file of this node's agent, or the only one there. Raises OSError, ValueError, KeyError, TypeError."""
    host, folder = socket.gethostname(), environ["FTSLURM_LOCAL_DIR"]
    told = environ.get("SLURMD_NODENAME") if environ.get("FTSLURM_LAUNCHER") != "mpirun" else None
    files = {name[6:-5]: name for name in os.listdir(folder) if name.startswith("agent-") and name.endswith(".json")}
    names = [told] if told else [host, host.split(".")[0], *(files if len(files) == 1 else ())]
    node = next((name for name in names if name in files), None)
    if node is None:
        raise ValueError(f"{folder} holds no file of an agent for {names[0]}")
    agent = json.loads(read_private(os.path.join(folder, files[node])).decode())
    key = bytes.fromhex(agent["key"]) if "key" in agent else read_private(environ["FTSLURM_KEY_FILE"])
    return {"node": node, "port": int(agent["port"]), "key": key}


class Link:
    """The connection to the agent: made again whenever it is lost."""

    def __init__(self, environ: Mapping[str, str], hello: Mapping[str, Any]) -> None:
        self.node, self.met, self.why = environ.get("SLURMD_NODENAME", ""), False, "none has been looked for"
        self._environ, self._hello, self._epoch = environ, hello, 0
        self._lost_at = self._retry_at = time.monotonic()
        self._sock: socket.socket | None = None
        self._wire = Wire(b"", "", hello)

    def lost_for(self) -> float:
        """Seconds without an agent."""
        return 0.0 if self._sock else time.monotonic() - self._lost_at

    def step(self, wake: int, register: Callable[[], None], wait_s: float = 5.0) -> list[dict[str, Any]]:
        """Wait `wait_s`, or for the agent, or for a byte on `wake`; return what the agent said.

        Without a connection it tries to make one, and calls `register` on it.
        """
        try:
            if self._sock is None and time.monotonic() >= self._retry_at:
                self._connect()
                register()
            poll = select.poll()
            poll.register(wake, select.POLLIN)
            if self._sock:
                poll.register(self._sock, select.POLLIN)
            found = dict(poll.poll(1000 * (wait_s if self._sock else min(wait_s, RETRY_S))))
            if wake in found:
                os.read(wake, 4096)
            return self._receive() if self._sock and self._sock.fileno() in found else []
        except (OSError, WireError, ValueError, KeyError, TypeError) as error:
            self._hang_up(str(error) or repr(error))
            return []

    def send(self, message: Mapping[str, Any]) -> None:
        """Send if there is an agent; if it does not take it, the connection is over."""
        if self._sock is None:
            return
        try:
            self._wire.send(message)
            self._sock.sendall(self._wire.take())
        except OSError as error:
            self._hang_up(str(error))

    def close(self) -> None:
        """Hang up for good."""
        self._hang_up("closed")

    def _connect(self) -> None:
        agent = find_agent(self._environ)
        end = time.monotonic() + MEET_S
        sock = socket.create_connection(("127.0.0.1", agent["port"]), timeout=MEET_S)
        wire = Wire(agent["key"], self._environ["FTSLURM_RUN_ID"], {**self._hello, "epoch": self._epoch})
        try:
            while not wire.ready:
                sock.settimeout(max(0.01, end - time.monotonic()))
                self._take_in(sock, wire)
                sock.sendall(wire.take())
            if wire.epoch < self._epoch:
                raise WireError(f"epoch {wire.epoch}, which {self._epoch} has replaced")  # noqa: TRY301
        except (OSError, WireError):
            sock.close()
            raise
        self._sock, self._wire, self._epoch, self.node, self.met = sock, wire, wire.epoch, agent["node"], True

    def _receive(self) -> list[dict[str, Any]]:
        assert self._sock  # noqa: S101 - the caller has looked
        return self._take_in(self._sock, self._wire)

    def _take_in(self, sock: socket.socket, wire: Wire) -> list[dict[str, Any]]:
        data = sock.recv(READ_BYTES)
        if not data:
            raise WireError("the agent has hung up")
        return wire.feed(data)

    def _hang_up(self, why: str) -> None:
        if self._sock:
            self._sock.close()
            self._lost_at = time.monotonic()
        self._sock, self.why, self._retry_at = None, why, time.monotonic() + RETRY_S
