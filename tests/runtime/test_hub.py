"""The hub over real sockets: whose silence is noticed, whose is the observer's own fault, and whose word counts."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from ftslurm.core.detector import Settings
from ftslurm.core.events import AgentLost, AgentUp, Event, NodeHeard, NodeSuspected
from ftslurm.errors import CannotCreate, ServiceUnavailable
from ftslurm.runtime.control import Channel, Credentials, OldEpoch, connect
from ftslurm.runtime.hub import Hub
from ftslurm.runtime.uplink import REPLACED, SUPERSEDED
from ftslurm.runtime.wire import HEAD, Wire
from tests.runtime.stage import PATIENCE_S, wait_until

WHO = Credentials(key=b"k" * 32, run_id="run")
QUICK = Settings(interval_s=0.1, suspect_after_s=0.6, nodes=4)
EPOCH = 3


class Agents:
    """Agents of a few nodes in one thread: they beat until they are told to be silent."""

    def __init__(self, port: int, names: tuple[str, ...]) -> None:
        self.silent: set[str] = set()
        self.channels: dict[str, Channel] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for name in names:
            self.channels[name] = self.run(self._join(port, name))

    def run(self, work: Any) -> Any:
        """Have something done in the agents' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _join(self, port: int, name: str) -> Channel:
        hello = {"role": "agent", "node": name, "address": f"10.0.0.{name[1:]}", "port": 1}
        channel = await connect(("127.0.0.1", port), WHO, hello)
        self._tasks.append(asyncio.create_task(self._beat(name, channel)))
        return channel

    async def _beat(self, name: str, channel: Channel) -> None:
        while not channel.closed:
            if name not in self.silent:
                channel.send({"t": "beat", "n": 1})
            await asyncio.sleep(QUICK.interval_s)

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self.channels.values():
            await channel.close()

    def end(self) -> None:
        """Hang up."""
        self.run(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


class Listener:
    """A hub, and what it has told."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.said: list[tuple[str, Mapping[str, Any]]] = []
        self.seen: list[Event] = []
        self.hub = Hub(WHO, QUICK, self.events.put, lambda node, told: self.said.append((node, told)), "10.0.0.1")
        self.port = self.hub.start("127.0.0.1", 0, EPOCH)

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of one kind so far."""
        while not self.events.empty():
            self.seen.append(self.events.get())
        return [event for event in self.seen if isinstance(event, kind)]

    def wait_for(self, kind: type[Event], count: int = 1) -> list[Any]:
        """The events of one kind, when there are as many."""
        return wait_until(lambda: found if len(found := self.of(kind)) >= count else [], f"{count} {kind.__name__}")


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A hub of epoch 3."""
    found = Listener()
    yield found
    found.hub.close(PATIENCE_S)
    found.hub._loop.close()


@pytest.fixture
def agents(listener: Listener) -> Iterator[Agents]:
    """The agents of four nodes; the hub's own is n1."""
    found = Agents(listener.port, ("n1", "n2", "n3", "n4"))
    listener.wait_for(AgentUp, 4)
    yield found
    found.end()


def test_one_silent_node_is_noticed_alone(listener: Listener, agents: Agents) -> None:
    """The event says how long, against how many others; when the node beats again, that is told once."""
    agents.silent.add("n3")
    (suspected,) = listener.wait_for(NodeSuspected)
    assert (suspected.node, suspected.peers, suspected.peers_silent) == ("n3", 2, 0)
    assert suspected.silent_s > QUICK.suspect_after_s
    assert suspected.phi > QUICK.threshold
    agents.silent.clear()
    (heard,) = listener.wait_for(NodeHeard)
    assert heard.node == "n3"


def test_observer_that_misses_all_others_waits_longer(listener: Listener, agents: Agents) -> None:
    """Its own node's agent is always heard and counts for nothing; the silence is waited for twice as long."""
    agents.silent |= {"n2", "n3", "n4"}
    suspected = listener.wait_for(NodeSuspected, 3)
    assert {event.node for event in suspected} == {"n2", "n3", "n4"}
    assert all(event.silent_s > 2 * QUICK.suspect_after_s for event in suspected)
    assert suspected[0].peers_silent == suspected[0].peers == 2


def test_observer_that_stood_still_blames_nobody(listener: Listener, agents: Agents) -> None:
    """Whoever was not listened to was not silent."""
    assert len(agents.channels) == 4
    listener.hub._loop.call_soon_threadsafe(time.sleep, 3 * QUICK.suspect_after_s)
    wait_until(lambda: listener.hub._health.score, "the hub has not noticed that it stood still")
    wait_until(lambda: not listener.hub._health.score, "the hub has not recovered")
    assert listener.of(NodeSuspected) == []


def test_large_broadcast_reaches_everybody_in_order(listener: Listener, agents: Agents) -> None:
    """What is large goes out in portions; nothing is lost or overtaken by the next broadcast."""
    for number in range(3):
        listener.hub.broadcast({"t": "big", "n": number, "text": "x" * 10_000})
    for channel in agents.channels.values():
        numbers: list[int] = []
        while len(numbers) < 3:
            message = agents.run(channel.recv())
            numbers += [message["n"]] if message["t"] == "big" else []
        assert numbers == [0, 1, 2]


def test_work_that_is_due_soon_is_done_once(listener: Listener) -> None:
    """Many requests, one piece of work; and again when it is asked for later."""
    done: list[int] = []
    work = lambda: done.append(1)  # noqa: E731
    for count in (1, 2):
        for _ in range(5):
            listener.hub._loop.call_soon_threadsafe(listener.hub.soon, work, 0.05)
        wait_until(lambda: len(done) == count, "the work was not done")  # noqa: B023
    assert done == [1, 1]


# ---------------------------------------------------------------------------------- words that must change nothing


@pytest.mark.parametrize(
    "who", [Credentials(key=b"x" * 32, run_id="run"), Credentials(key=WHO.key, run_id="other")], ids=["key", "run"]
)
def test_a_stranger_is_no_agent(listener: Listener, who: Credentials) -> None:
    """Another key, or the same key in another run: no event, no word, nobody connected."""
    with pytest.raises(ServiceUnavailable, match="hung up"):
        meet(listener.port, who, {"role": "agent", "node": "n2"})
    meet(listener.port, WHO, {"role": "agent", "node": "n4"})
    listener.wait_for(AgentLost)
    assert {getattr(event, "node", "") for event in listener.of(Event)} == {"n4"}
    assert listener.said == []


def test_an_agent_of_a_higher_epoch_tells_so_and_nothing_else(listener: Listener) -> None:
    """A supervisor that was replaced learns it, and takes no agent of the other one for its own."""
    meet(listener.port, WHO, {"role": "agent", "node": "n2", "epoch": EPOCH + 1})
    wait_until(lambda: listener.said, "the hub was not told")
    assert listener.said == [("n2", {"t": SUPERSEDED, "epoch": EPOCH + 1})]
    assert listener.of(Event) == []
    assert listener.hub.connected == ()


def test_an_agent_does_not_obey_an_old_supervisor(listener: Listener) -> None:
    """It hangs up before it has heard a word."""
    with pytest.raises(OldEpoch):
        meet(listener.port, WHO, {"role": "agent", "node": "n2", "epoch": EPOCH + 1}, min_epoch=EPOCH + 1)
    assert listener.hub.connected == ()


def meet(port: int, who: Credentials, hello: dict[str, Any], min_epoch: int = 0) -> None:
    """Connect as an agent, and hang up."""

    async def story() -> None:
        try:
            channel = await connect(("127.0.0.1", port), who, hello, min_epoch=min_epoch)
            await channel.close()
        finally:
            await asyncio.sleep(0.05)  # the transport closes its socket in its loop's next turn

    asyncio.run(story())


def session(port: int, node: str) -> tuple[socket.socket, Wire]:
    """A connected socket of a genuine agent, and its codec."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    wire = Wire(WHO.key, WHO.run_id, {"role": "agent", "node": node, "address": node, "port": 1})
    while not wire.ready:
        wire.feed(sock.recv(65536))
        sock.sendall(wire.take())
    return sock, wire


def exit_frame(wire: Wire) -> bytes:
    """A frame with a word that would stop the training."""
    wire.send(
        {"t": "event", "id": 1, "event": {"type": "RankExited", "attempt": 0, "rank": 0, "node": "n2", "code": 1}}
    )
    return wire.take()


def flipped(first: Wire, second: Wire) -> bytes:
    """One bit of the word is another."""
    del second
    frame = bytearray(exit_frame(first))
    frame[-3] ^= 1
    return bytes(frame)


def without_mac(first: Wire, second: Wire) -> bytes:
    """A word that nobody has signed."""
    del first, second
    payload = json.dumps({"t": "event", "id": 1, "event": {}}).encode()
    return HEAD.pack(len(payload), bytes(32)) + payload


def from_another_connection(first: Wire, second: Wire) -> bytes:
    """A genuine frame, of another connection of the same run and epoch."""
    del first
    return exit_frame(second)


def reflected(first: Wire, second: Wire) -> bytes:
    """What the supervisor itself has said on a connection to one that it serves."""
    del second
    server = Wire(WHO.key, WHO.run_id, {}, epoch=EPOCH)
    server._session, server.ready = first._session, True
    return exit_frame(server)


@pytest.mark.parametrize("deceit", [flipped, without_mac, from_another_connection, reflected])
def test_a_false_word_inside_a_session_ends_it_unheard(
    listener: Listener, deceit: Callable[[Wire, Wire], bytes]
) -> None:
    """The connection is closed, nothing of the word is acted upon."""
    sock, wire = session(listener.port, "n2")
    other_sock, other = session(listener.port, "n3")
    with sock, other_sock:
        sock.sendall(deceit(wire, other))
        (lost,) = listener.wait_for(AgentLost)
    assert lost.node == "n2"
    assert listener.said == []


def test_a_word_said_twice_is_heard_once(listener: Listener) -> None:
    """A frame that is recorded and sent again on its own connection ends that connection."""
    sock, wire = session(listener.port, "n2")
    with sock:
        frame = exit_frame(wire)
        sock.sendall(frame)
        wait_until(lambda: len(listener.said) == 1, "the genuine word was not heard")
        sock.sendall(frame)
        listener.wait_for(AgentLost)
    assert len(listener.said) == 1


def test_of_two_agents_of_a_node_the_later_one_stays(listener: Listener) -> None:
    """The other one is told so when it comes back, and takes nobody's place: else they would hang up on each other for ever."""
    first = {"role": "agent", "node": "n2", "port": 7001}
    meet(listener.port, WHO, first)
    meet(listener.port, WHO, first)
    meet(listener.port, WHO, {**first, "port": 7002})
    listener.wait_for(AgentUp, 3)

    async def again() -> Mapping[str, Any]:
        channel = await connect(("127.0.0.1", listener.port), WHO, first)
        try:
            return await channel.recv()
        finally:
            await channel.close()
            await asyncio.sleep(0.05)  # the transport closes its socket in its loop's next turn

    assert asyncio.run(again()) == {"t": REPLACED}
    assert [event.port for event in listener.of(AgentUp)] == [7001, 7001, 7002]


def test_a_port_that_somebody_else_has_is_replaced(listener: Listener) -> None:
    """A supervisor that is started again wants the port of the one before; a hub without any would hear nobody."""
    other = Hub(WHO, QUICK, lambda _: None, lambda node, told: None, "10.0.0.1")
    assert other.start("127.0.0.1", listener.port, EPOCH) not in (0, listener.port)
    other.close(PATIENCE_S)
    other._loop.close()


def test_an_address_that_is_not_ours_is_said() -> None:
    """There is no port to take instead."""
    hub = Hub(WHO, QUICK, lambda _: None, lambda node, told: None, "10.0.0.1")
    with pytest.raises(CannotCreate, match="cannot listen on 192"):
        hub.start("192.0.2.1", 0, EPOCH)
    hub.close(PATIENCE_S)
    hub._loop.close()
