"""The processes of `scale.py`: the supervisor's hub and core, the agents, and a bare echo for the floor."""

from __future__ import annotations

import asyncio
import heapq
import json
import queue
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ftslurm.core.actions import Action, ProbeNode, SetTimer
from ftslurm.core.detector import Settings
from ftslurm.core.events import (
    AgentUp,
    AllocationGranted,
    Event,
    Finding,
    NodeProbed,
    NodeSuspected,
    Outcome,
    StoreScanned,
    TimerFired,
    Witness,
    WorldMustered,
)
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.errors import FtslurmError
from ftslurm.runtime.control import Channel, ChannelClosed, Credentials, connect
from ftslurm.runtime.hub import Hub

INTERVAL_S = 1.0
PATIENCE_S = 120.0
SLICES = 50
RETRY_S = 0.25
AT_A_TIME = 32
BEAT = b'{"t":"beat","n":12345}'
ASKED = (Witness.PING, Witness.TCP, Witness.SSH)


def say(**told: float) -> None:
    """Answer the benchmark."""
    print(json.dumps(told), flush=True)


def orders() -> Iterator[dict[str, Any]]:
    """What the benchmark wants next, until it hangs up."""
    for line in sys.stdin:
        yield json.loads(line)


def measured(seconds: float, count: Callable[[], int]) -> dict[str, float]:
    """CPU share of this process, and beats a second, over a while."""
    cpu, began, before = time.process_time(), time.monotonic(), count()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        "cpu_share": round((time.process_time() - cpu) / took, 5),
        "beats_s": round((count() - before) / took, 1),
        "took_s": round(took, 3),
    }


# ---------------------------------------------------------------------------------------------------- the supervisor


class Core:
    """The supervisor's loop without files: the real rules, and witnesses that know which nodes are gone."""

    def __init__(self, nodes: int) -> None:
        self.names = tuple(f"n{number}" for number in range(nodes))
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.run = Run()
        self.policy = Policy(continue_by="none", max_attempts=1000)
        self.up = 0
        self.suspected: dict[str, float] = {}
        self.decided: dict[str, float] = {}
        self.gone: set[str] = set()
        self._timers: list[tuple[float, str, int]] = []

    def begin(self) -> None:
        """A run that trains on all nodes."""
        granted = AllocationGranted(
            job_id="1", restart=0, nodes=self.names, batch_host=self.names[0], epoch=1, no_kill=True
        )
        self.step(granted)
        self.step(StoreScanned(generations=()))

    def step(self, event: Event) -> None:
        """One turn of the loop."""
        event = replace(event, mono=time.monotonic())
        self.run, actions = advance(self.run, event, self.policy)
        for action in actions:
            self._act(action)
        if len(self.run.condemned) > len(self.decided):
            self.decided |= dict.fromkeys(self.run.condemned.keys() - self.decided.keys(), time.monotonic())
        if isinstance(event, AgentUp):
            self.up += 1
            if self.up == len(self.names) and self.run.attempt is not None:
                placement = self.run.attempt.nodes
                world = WorldMustered(attempt=0, placement=placement, master_addr="n0", master_port=29500)
                self.step(world)
        elif isinstance(event, NodeSuspected):
            self.suspected[event.node] = event.mono

    def _act(self, action: Action) -> None:
        if isinstance(action, ProbeNode):
            word = Outcome.UNREACHABLE if action.node in self.gone else Outcome.OK
            against = [Finding(witness=witness, outcome=word) for witness in ASKED]
            found = (Finding(witness=Witness.PEER, outcome=Outcome.OK), *against)
            self.events.put(NodeProbed(node=action.node, findings=found, final=True))
        elif isinstance(action, SetTimer):
            heapq.heappush(self._timers, (time.monotonic() + action.after_s, action.name, action.token))

    def loop(self) -> None:
        """Turn for ever."""
        while True:
            now = time.monotonic()
            if self._timers and self._timers[0][0] <= now:
                _, name, token = heapq.heappop(self._timers)
                self.step(TimerFired(name=name, token=token))
                continue
            with suppress(queue.Empty):
                self.step(self.events.get(timeout=min(self._timers[0][0] - now, 1.0) if self._timers else 1.0))


def ignore(node: str, message: Mapping[str, Any]) -> None:
    """What agents say besides beats is not part of this."""
    del node, message


def supervise(nodes: int, key: str) -> None:
    """The hub and the core of one supervisor."""
    beats = 0

    class Counting(Hub):
        def _take(self, node: str, message: dict[str, Any]) -> None:
            nonlocal beats
            beats += 1
            super()._take(node, message)

    core = Core(nodes)
    core.begin()
    threading.Thread(target=core.loop, daemon=True).start()
    who = Credentials(key=bytes.fromhex(key), run_id="scale")
    hub = Counting(who, Settings(interval_s=INTERVAL_S, nodes=nodes), core.events.put, ignore)
    say(port=hub.start("127.0.0.1", 0, 1))
    for order in orders():
        if order["do"] == "measure":
            say(**measured(order["seconds"], lambda: beats))
        else:
            node, end = order["node"], time.monotonic() + PATIENCE_S
            core.gone.add(node)
            while node not in core.decided and time.monotonic() < end:
                time.sleep(0.01)
            say(suspected=core.suspected[node], verdict=core.decided[node])
    hub.close(5.0)


# ------------------------------------------------------------------------------------------------------- the floor


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        Echo.count += 1
        self.transport.write(data)  # type: ignore[attr-defined]


def echo() -> None:
    """A server that checks nothing."""
    ready = threading.Event()
    port = 0

    async def serve() -> None:
        nonlocal port
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=1024)
        port = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    ready.wait(10)
    say(port=port)
    for order in orders():
        say(**measured(order["seconds"], lambda: Echo.count))


# ------------------------------------------------------------------------------------------------------- the agents


class Sink(asyncio.Protocol):
    """A connection of the floor: says its bytes, and hears nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to speak."""
        self.transport = transport

    def send(self, message: dict[str, Any]) -> None:
        """As many bytes as a beat has, whatever the message."""
        del message
        self.transport.write(bytes(36) + BEAT)  # type: ignore[attr-defined]


class Agents:
    """The agents of one process."""

    def __init__(self, *, first: int, count: int, port: int, key: str, plain: bool) -> None:
        self.first, self.count, self.address, self.plain = first, count, ("127.0.0.1", port), plain
        self.who = Credentials(key=bytes.fromhex(key), run_id="scale")
        self.channels: dict[int, Channel | Sink] = {}
        self.listeners: list[asyncio.Task[None]] = []
        self.silent: dict[int, float] = {}
        self.last: dict[int, float] = {}

    async def serve(self) -> None:
        """Connect, some at a time as Slurm starts them; then beat, each at its own moment of the second."""
        turns = asyncio.Semaphore(AT_A_TIME)
        await asyncio.gather(*(self.connect(number, turns) for number in range(self.count)))
        say(connected=self.count)
        number = 0
        while True:
            began = time.monotonic()
            for index in range(number % SLICES, self.count, SLICES):
                self.beat(index, number)
            number += 1
            await asyncio.sleep(max(0.0, INTERVAL_S / SLICES - (time.monotonic() - began)))

    async def connect(self, index: int, turns: asyncio.Semaphore) -> None:
        """Until it works."""
        pause = RETRY_S
        while index not in self.channels:
            try:
                async with turns:
                    self.channels[index] = await self.join(index)
            except (FtslurmError, OSError):
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                pause = min(2 * pause, 4.0)

    async def join(self, index: int) -> Channel | Sink:
        """One connection."""
        loop = asyncio.get_running_loop()
        if self.plain:
            return (await loop.create_connection(Sink, *self.address))[1]
        name = f"n{self.first + index}"
        channel = await connect(self.address, self.who, {"role": "agent", "node": name, "address": name, "port": 1})
        self.listeners.append(loop.create_task(self.listen(channel)))
        return channel

    async def listen(self, channel: Channel) -> None:
        """Hear the answers, as an agent does."""
        with suppress(ChannelClosed):
            while True:
                await channel.recv()

    def beat(self, index: int, number: int) -> None:
        """One beat, unless this one is silent."""
        if index in self.silent:
            return
        with suppress(ChannelClosed):
            self.channels[index].send({"t": "beat", "n": number})
        self.last[index] = time.monotonic()


def agents(settings: dict[str, Any]) -> None:
    """Agents in a thread; the main one listens to the benchmark."""
    group = Agents(**settings)
    threading.Thread(target=lambda: asyncio.run(group.serve()), daemon=True).start()
    for order in orders():
        index = order["index"]
        group.silent[index] = time.monotonic()
        say(last=group.last[index])


def main() -> None:
    """Play one role."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    role, settings = sys.argv[1], json.loads(sys.argv[2])
    if role == "hub":
        supervise(**settings)
    elif role == "echo":
        echo()
    else:
        agents(settings)


if __name__ == "__main__":
    main()
