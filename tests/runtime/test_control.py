"""The control channel over real sockets: who may speak, who is disconnected, and that nobody slows the others."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ftslurm.errors import CannotCreate, Refused, ServiceUnavailable
from ftslurm.runtime.control import (
    Channel,
    ChannelClosed,
    Credentials,
    Limits,
    OldEpoch,
    Server,
    connect,
    serve,
)
from ftslurm.runtime.wire import HEAD, Wire

WHO = Credentials(key=b"k" * 32, run_id="run")
ANY = ("127.0.0.1", 0)
QUICK = Limits(handshake_s=0.3, frame_s=0.3, stall_s=0.5, pending=4)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Play one story, for half a minute at most."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(bounded())


class Listener:
    """A server that keeps what it hears and answers every message with `{"echo": message}`."""

    def __init__(self, limits: Limits = QUICK) -> None:
        self.heard: list[dict[str, Any]] = []
        self.channels: list[Channel] = []
        self._limits = limits
        self._server: Server | None = None

    async def __aenter__(self) -> Server:
        self._server = await serve(ANY, WHO, epoch=3, on_channel=self._on_channel, limits=self._limits)
        return self._server

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        await self._server.close()

    async def _on_channel(self, channel: Channel) -> None:
        self.channels.append(channel)
        while True:
            message = await channel.recv()
            self.heard.append(message)
            channel.send({"echo": message})


async def until(condition: Callable[[], bool]) -> None:
    """Poll; `run` bounds it."""
    while not condition():  # noqa: ASYNC110 - what is waited for knows no event
        await asyncio.sleep(0.01)


async def works(server: Server) -> bool:
    """A friend is still served."""
    channel = await connect(("127.0.0.1", server.port), WHO, {"role": "friend"})
    channel.send({"n": 1})
    answer = await channel.recv()
    await channel.close()
    return answer == {"echo": {"n": 1}}


async def raw(server: Server, *parts: bytes) -> bytes:
    """Send bytes without a handshake; return what comes until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for part in parts:
        writer.write(part)
    found = b""
    try:
        while data := await reader.read(65536):
            found += data
    except ConnectionResetError:
        pass
    writer.close()
    return found


def test_both_sides_talk() -> None:
    """Hellos, messages both ways, 7 MiB in one, and the reason of an end."""

    async def story() -> None:
        listener = Listener(Limits())
        async with listener as server:
            channel = await connect(("127.0.0.1", server.port), WHO, {"role": "agent", "node": "n1"}, min_epoch=3)
            assert (channel.peer.epoch, channel.peer.hello["role"]) == (3, "server")
            text = "x" * (7 * 2**20)
            channel.send({"text": text})
            assert (await channel.recv())["echo"]["text"] == text
            hello = listener.channels[0].peer.hello
            assert (hello["role"], hello["node"]) == ("agent", "n1")
            await listener.channels[0].close()
            with pytest.raises(ChannelClosed, match="hung up") as caught:
                await channel.recv()
            assert not caught.value.silent
            assert channel.closed
            with pytest.raises(ChannelClosed):
                channel.send({"n": 2})

    run(story)


@pytest.mark.parametrize("who", [Credentials(key=b"x" * 32, run_id="run"), Credentials(key=b"k" * 32, run_id="other")])
def test_strangers_are_refused_and_heard_by_nobody(who: Credentials) -> None:
    """Another key or another run's key: no channel on either side."""

    async def story() -> None:
        listener = Listener()
        async with listener as server:
            with pytest.raises(ServiceUnavailable, match="hung up"):
                await connect(("127.0.0.1", server.port), who, {"role": "agent"})
            assert await works(server)
            assert len(listener.channels) == 1
            assert server.refused == 1

    run(story)


def test_a_server_of_an_old_epoch_is_refused() -> None:
    """A client that knows a higher epoch does not obey; the server's epoch can be raised."""

    async def story() -> None:
        async with Listener() as server:
            with pytest.raises(OldEpoch) as caught:
                await connect(("127.0.0.1", server.port), WHO, {}, min_epoch=4)
            assert caught.value.epoch == 3
            server.epoch = 4
            channel = await connect(("127.0.0.1", server.port), WHO, {}, min_epoch=4)
            assert channel.peer.epoch == 4
            await channel.close()

    run(story)


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET / HTTP/1.1\r\n\r\n"],
        [HEAD.pack(2**32 - 1, bytes(32))],
        [HEAD.pack(2, bytes(32)) + b"{}"],
        [HEAD.pack(4096, bytes(32)), b"[" * 4096],
        [os.urandom(3000)],
        [],
        [b"\0"],
    ],
    ids=["http", "huge", "empty hello", "deep", "random", "silent", "one byte"],
)
def test_garbage_ends_in_a_closed_connection(parts: list[bytes]) -> None:
    """Whoever cannot shake hands is dropped, after the handshake's time at the latest, and got no secret."""

    async def story() -> None:
        listener = Listener()
        async with listener as server:
            said = await raw(server, *parts)
            assert len(said) < 200
            assert WHO.key not in said
            assert await works(server)
            assert server.refused == 1
            assert len(listener.channels) == 1

    run(story)


def test_a_recorded_conversation_cannot_be_played_again() -> None:
    """Every byte that a friend has sent, sent once more to the same server: nothing is heard."""

    async def story() -> None:
        listener = Listener()
        async with listener as server:
            sent = await _record(server)
            await until(lambda: len(listener.heard) == 1)
            await raw(server, sent)
            assert listener.heard == [{"t": "exit", "code": 1}]
            assert len(listener.channels) == 1

    run(story)


async def _record(server: Server) -> bytes:
    """Talk to the server as a friend does; return every byte that was sent."""
    wire, sent = Wire(WHO.key, WHO.run_id, {"role": "rank"}), b""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    while not wire.ready:
        wire.feed(await reader.read(65536))
        part = wire.take()
        sent += part
        writer.write(part)
    wire.send({"t": "exit", "code": 1})
    part = wire.take()
    writer.write(part)
    await reader.read(1)
    writer.close()
    return sent + part


def test_slow_strangers_do_not_crowd_out_friends() -> None:
    """More silent connections than are allowed at a time: friends get in at once, the oldest stranger goes."""

    async def story() -> None:
        async with Listener(Limits(handshake_s=20, pending=4)) as server:
            strangers = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(12)]
            assert await works(server)
            await until(lambda: server.refused >= 8)
            for _, writer in strangers:
                writer.close()

    run(story)


def test_a_frame_must_be_finished_in_time() -> None:
    """A known peer that stops in the middle of a frame is disconnected."""

    async def story() -> None:
        async with Listener() as server:
            channel = await connect(("127.0.0.1", server.port), WHO, {})
            channel._session.transport.write(HEAD.pack(100, bytes(32)) + b"half")
            with pytest.raises(ChannelClosed):
                await channel.recv()

    run(story)


@pytest.mark.parametrize("limits", [Limits(buffer_bytes=2**20), Limits(stall_s=0.3)], ids=["too much", "too slow"])
def test_a_peer_that_does_not_read_is_disconnected(limits: Limits) -> None:
    """It holds neither memory nor anybody else: sending never waits, and the others are served meanwhile."""

    async def story() -> None:
        channels: list[Channel] = []
        done = asyncio.Event()

        async def on_channel(channel: Channel) -> None:
            channels.append(channel)
            await done.wait()

        server = await serve(ANY, WHO, epoch=1, on_channel=on_channel, limits=limits)
        deaf = await connect(("127.0.0.1", server.port), WHO, {})
        deaf._session.transport.pause_reading()
        friend = await connect(("127.0.0.1", server.port), WHO, {})
        await until(lambda: len(channels) == 2)
        closed = False
        while not closed:
            try:
                channels[0].send({"text": "x" * 100_000})
            except ChannelClosed:
                closed = True
            channels[1].send({"n": 1})
            assert await friend.recv() == {"n": 1}
        deaf._session.drop("done")
        done.set()
        await server.close()

    run(story)


def test_nobody_there_is_an_answer() -> None:
    """A closed port, and one that accepts but never speaks, within the deadline."""

    async def story() -> None:
        with socket.socket() as silent:
            silent.bind(ANY)
            with pytest.raises(ServiceUnavailable, match="does not answer"):
                await connect(silent.getsockname(), WHO, {}, limits=QUICK)
            silent.listen()
            with pytest.raises(ServiceUnavailable, match="does not answer"):
                await connect(silent.getsockname(), WHO, {}, limits=QUICK)

    run(story)


def test_an_impostor_server_is_refused() -> None:
    """Who greets without the key is told nothing but a hello, and is refused by name."""

    async def story() -> None:
        async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(Wire(b"x" * 32, "run", {}, epoch=9).take())
            await reader.read(65536)
            writer.write(HEAD.pack(2, bytes(32)) + b"{}")
            writer.close()

        server = await asyncio.start_server(impostor, *ANY)
        with pytest.raises(Refused, match="does not belong to this run"):
            await connect(server.sockets[0].getsockname(), WHO, {})
        server.close()

    run(story)


def test_a_server_outlives_its_callbacks_errors(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in the service of one peer is logged, and ends that channel only."""

    async def story() -> None:
        async def on_channel(channel: Channel) -> None:
            await _fail_for(channel)

        server = await serve(ANY, WHO, epoch=1, on_channel=on_channel)
        for role in ("bad", "bad", "good"):
            channel = await connect(("127.0.0.1", server.port), WHO, {"role": role})
            with pytest.raises(ChannelClosed):
                await channel.recv()
        await server.close()

    run(story)
    assert caplog.text.count("RuntimeError: oops") == 2


async def _fail_for(channel: Channel) -> None:
    if channel.peer.hello["role"] == "bad":
        raise RuntimeError("oops")


def test_closing_the_server_ends_everything() -> None:
    """Channels, strangers and tasks are gone, and the port can be bound again."""

    async def story() -> None:
        listener = Listener()
        async with listener as server:
            channel = await connect(("127.0.0.1", server.port), WHO, {})
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with pytest.raises(ChannelClosed):
            await channel.recv()
        writer.close()
        again = await serve(("127.0.0.1", server.port), WHO, epoch=4, on_channel=listener._on_channel)
        with pytest.raises(CannotCreate, match="cannot listen"):
            await serve(("127.0.0.1", server.port), WHO, epoch=4, on_channel=listener._on_channel)
        await again.close()
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    run(story)
