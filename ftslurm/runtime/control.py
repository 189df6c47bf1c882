"""The control channel for asyncio: JSON messages between authenticated holders of the run's key.

The codec and its promises are in `runtime.wire`. The rule here: everything has a deadline and a bound. A stranger gets
`handshake_s` seconds and 4 KiB; a peer that does not read, or that leaves a frame unfinished, is disconnected and never
slows the others; `send` never waits.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftslurm.errors import CannotCreate, FtslurmError, Refused, ServiceUnavailable
from ftslurm.runtime.keys import new_key, private_folder, read_key
from ftslurm.runtime.wire import Wire, WireError

__all__ = [
    "Channel",
    "ChannelClosed",
    "Credentials",
    "Limits",
    "OldEpoch",
    "Peer",
    "Server",
    "connect",
    "new_key",
    "private_folder",
    "read_key",
    "serve",
]

log = logging.getLogger(__name__)

CLOSE_S = 2.0

Message = dict[str, Any]


class ChannelClosed(FtslurmError):
    """The connection is over; the message says why. `silent`: the peer fell silent, it did not hang up."""

    exit_code = 69

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class OldEpoch(Refused):
    """The server belongs to a supervisor that has been replaced; `epoch` is its."""

    def __init__(self, message: str, *, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What both ends must know: the run's key and whose it is."""

    key: bytes = field(repr=False)
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Deadlines in seconds and bounds of one server or connection.

    `handshake_s` includes connecting. `frame_s`: from a frame's first byte to its last. `stall_s`: for a peer to read
    what has been sent. `buffer_bytes`: what may wait for a peer. `inbox`: messages that wait for `recv` before the peer
    is made to wait. `pending`: strangers at a time; the oldest goes first.
    """

    handshake_s: float = 5.0
    frame_s: float = 10.0
    stall_s: float = 10.0
    buffer_bytes: int = 32 * 2**20
    inbox: int = 1024
    pending: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end. `hello` is what it told, authenticated; `epoch` is the one of the session's server."""

    address: str
    port: int
    epoch: int
    hello: Message


class _Session(asyncio.Protocol):
    """Carries bytes between a transport and a `Wire`, and keeps the deadlines."""

    def __init__(self, wire: Wire, limits: Limits, on_ready: Callable[[_Session], None] | None = None) -> None:
        self.wire, self.limits = wire, limits
        self.inbox: deque[Message] = deque()
        self.reason, self.silent, self.cheated = "", False, False
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self._loop, self._on_ready = loop, on_ready
        self._waiter: asyncio.Future[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP has no other; for the type checker
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.limits.stall_s * 1000))
        transport.set_write_buffer_limits(high=2**16)
        self._set_timer("handshake", self.limits.handshake_s, "no handshake in time")
        transport.write(self.wire.take())

    def data_received(self, data: bytes) -> None:
        was_ready = self.wire.ready
        try:
            messages = self.wire.feed(data)
        except WireError as error:
            self.cheated = True
            self.drop(str(error))
            return
        self._write()
        if messages or not self.wire.partial:
            self._stop_timer("frame")
        if self.wire.partial and "frame" not in self._timers:
            self._set_timer("frame", self.limits.frame_s, "a frame was not finished in time")
        if self.wire.ready and not was_ready:
            self._stop_timer("handshake")
            self.greeted.set_result(None)
            if self._on_ready:
                self._on_ready(self)
        self.inbox.extend(messages)
        if len(self.inbox) > self.limits.inbox and self.transport:
            self.transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._set_timer("stall", self.limits.stall_s, "the peer does not read")

    def resume_writing(self) -> None:
        self._stop_timer("stall")

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._stop_timer(name)
        self.silent = isinstance(exc, OSError) and not isinstance(exc, ConnectionError)  # ETIMEDOUT, EHOSTUNREACH, ...
        self.reason = self.reason or str(exc or "the peer has hung up")
        self.transport = None
        self.over.set_result(None)
        if not self.greeted.done():
            self.greeted.cancel()
        self._wake()

    def drop(self, reason: str) -> None:
        """Hang up at once."""
        if self.transport:
            self.reason = self.reason or reason
            self.transport.abort()

    def closed(self) -> ChannelClosed:
        return ChannelClosed(self.reason or "closed", silent=self.silent)

    def send(self, message: Mapping[str, Any] | bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            raise self.closed()
        self.wire.send(message)
        self._write()
        if self.transport.get_write_buffer_size() > self.limits.buffer_bytes:
            self.drop("the peer reads too slowly")
            raise self.closed()

    async def receive(self) -> Message:
        while not self.inbox:
            if self.transport is None:
                raise self.closed()
            self._waiter = self._loop.create_future()
            await self._waiter
        message = self.inbox.popleft()
        if self.transport and len(self.inbox) <= self.limits.inbox // 2:
            self.transport.resume_reading()
        return message

    def _write(self) -> None:
        data = self.wire.take()
        if data and self.transport:
            self.transport.write(data)

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_timer(self, name: str, after_s: float, reason: str) -> None:
        self._timers[name] = self._loop.call_later(after_s, self.drop, reason)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer:
            timer.cancel()


class Channel:
    """An authenticated connection."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        transport = session.transport
        name = transport.get_extra_info("peername") if transport else None
        address, port = name[:2] if name else ("", 0)
        hello = {key: value for key, value in session.wire.peer.items() if key != "nonce"}
        self.peer = Peer(address=address, port=port, epoch=session.wire.epoch, hello=hello)

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._session.transport is None or self._session.transport.is_closing()

    def send(self, message: Mapping[str, Any] | bytes) -> None:
        """Send a message, or what `wire.encode` made of one, without waiting.

        Raises:
            ChannelClosed: the connection is over, or the peer reads too slowly and has been disconnected.
            WireError, ValueError, TypeError: more than 8 MiB, or no JSON; the connection lives on.
        """
        self._session.send(message)

    async def recv(self) -> Message:
        """Return the next message; wait for it without limit. Raises ChannelClosed. One reader at a time."""
        return await self._session.receive()

    async def close(self) -> None:
        """Send what is still to be sent, for two seconds at most, and hang up."""
        transport = self._session.transport
        if transport is None:
            return
        self._session.reason = self._session.reason or "closed by this side"
        transport.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(self._session.over)
        except TimeoutError:
            transport.abort()


class Server:
    """A listening socket and the channels that have come from it. `epoch` may be raised: later sessions have it."""

    def __init__(
        self, who: Credentials, epoch: int, limits: Limits, on_channel: Callable[[Channel], Awaitable[None]]
    ) -> None:
        self.epoch, self.port, self.refused = epoch, 0, 0
        self._who, self._limits, self._on_channel = who, limits, on_channel
        self._listener: asyncio.Server | None = None
        self._strangers: dict[_Session, None] = {}
        self._known: dict[asyncio.Task[None], _Session] = {}

    async def listen(self, address: tuple[str, int]) -> None:
        """Start to serve. Raises CannotCreate."""
        host, port = address
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(self._admit, host or "0.0.0.0", port, backlog=1024)  # noqa: S104
        except OSError as error:
            raise CannotCreate(f"cannot listen on {host or 'any address'}, port {port}: {error}") from error
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Hang up on everybody; wait until every `on_channel` has ended."""
        if self._listener:
            self._listener.close()
        for session in [*self._strangers, *self._known.values()]:
            session.drop("this side has closed")
        for task in self._known:
            task.cancel()
        await asyncio.gather(*self._known, return_exceptions=True)

    def _admit(self) -> _Session:
        if len(self._strangers) >= self._limits.pending:
            next(iter(self._strangers)).drop("too many strangers")
        wire = Wire(self._who.key, self._who.run_id, {"role": "server"}, epoch=self.epoch)
        session = _Session(wire, self._limits, self._welcome)
        self._strangers[session] = None
        session.over.add_done_callback(lambda _: self._forget(session))
        return session

    def _forget(self, session: _Session) -> None:
        if session not in self._strangers:
            return
        del self._strangers[session]
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # 1, 2, 4, 8, ...: a scanner must not fill the log
            log.warning("stranger number %d on port %d was refused: %s", self.refused, self.port, session.reason)

    def _welcome(self, session: _Session) -> None:
        del self._strangers[session]
        task = asyncio.get_running_loop().create_task(self._serve(Channel(session)))
        self._known[task] = session
        task.add_done_callback(lambda _: self._known.pop(task))

    async def _serve(self, channel: Channel) -> None:
        try:
            await self._on_channel(channel)
        except ChannelClosed as error:
            log.debug("the channel to %s is closed: %s", channel.peer.hello, error)
        except Exception:
            log.exception("serving %s failed", channel.peer.hello)
        finally:
            await channel.close()


async def serve(
    address: tuple[str, int],
    who: Credentials,
    *,
    epoch: int,
    on_channel: Callable[[Channel], Awaitable[None]],
    limits: Limits = Limits(),
) -> Server:
    """Listen on `address` (host "": all; port 0: any, see `Server.port`); run `on_channel` for every holder of the key.

    The channel is closed when `on_channel` returns. Raises CannotCreate.
    """
    server = Server(who, epoch, limits, on_channel)
    await server.listen(address)
    return server


async def connect(
    address: tuple[str, int],
    who: Credentials,
    hello: Mapping[str, Any],
    *,
    min_epoch: int = 0,
    limits: Limits = Limits(),
) -> Channel:
    """Connect and prove each other the key, within `limits.handshake_s` seconds.

    Raises:
        ServiceUnavailable: nobody answers there, or it hangs up (so does a server that has another key or run).
        Refused: the server does not hold the key. OldEpoch: it is of an epoch below `min_epoch`.
    """
    host, port = address
    loop = asyncio.get_running_loop()
    session = _Session(Wire(who.key, who.run_id, hello), limits)
    try:
        async with asyncio.timeout(limits.handshake_s):
            await loop.create_connection(lambda: session, host, port)
            await asyncio.wait([session.greeted])
    except (OSError, TimeoutError) as error:
        session.drop("given up")
        raise ServiceUnavailable(f"{host}:{port} does not answer: {error or 'timed out'}") from error
    except asyncio.CancelledError:
        session.drop("given up")
        raise
    if session.cheated:
        raise Refused(f"{host}:{port} does not belong to this run: {session.reason}")
    if session.greeted.cancelled():
        hint = "a server of another run hangs up without a word"
        raise ServiceUnavailable(f"{host}:{port} hung up before it was known: {session.reason}", hint=hint)
    if session.wire.epoch < min_epoch:
        session.drop("of an old epoch")
        message = f"{host}:{port} is of epoch {session.wire.epoch}, which {min_epoch} has replaced"
        raise OldEpoch(message, epoch=session.wire.epoch)
    return Channel(session)
