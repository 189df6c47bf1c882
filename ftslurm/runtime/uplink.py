"""An agent's connection to the supervisor: kept up for ever, beats on it, and loses no report.

The supervisor may be another one tomorrow: an agent follows the highest epoch that it has heard of, tells a lower one
so, and beats with the echo that it has heard last, so that the supervisor knows when its own word came through.
Reports (events) have numbers and are sent again on every new connection until the supervisor has acknowledged them.
When the supervisor and a majority of the other agents are silent for the dead-man's time, this node is on the far side
of a partition: its ranks must not go on, because the others may already train without them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftslurm.core.events import Event
from ftslurm.core.records import to_record
from ftslurm.errors import FtslurmError
from ftslurm.runtime.clock import ClockWatch
from ftslurm.runtime.control import Channel, ChannelClosed, Credentials, connect

log = logging.getLogger(__name__)

RETRY_S = 0.25
PEER_DEADLINE_S = 2.0
SUPERSEDED = "superseded"
REPLACED = "replaced"
HELLO_PEER = {"role": "peer"}


@dataclass
class Uplink:
    """The way to the supervisor. Lives in the agent's event loop; `report` may be called from any thread."""

    who: Credentials
    address: tuple[str, int]
    interval_s: float
    deadman_s: float
    hello: Callable[[], dict[str, Any]]
    on_message: Callable[[Mapping[str, Any]], None]
    on_connected: Callable[[], None]
    on_alone: Callable[[], None]
    loop: asyncio.AbstractEventLoop
    peers: dict[str, tuple[str, int]] = field(default_factory=dict)
    epoch: int = 0
    heard: float = field(default_factory=time.monotonic)
    clock: ClockWatch = field(default_factory=ClockWatch)
    majority: float = -math.inf
    ring_s: Callable[[], float] = lambda: math.inf
    _channel: Channel | None = None
    _session_task: asyncio.Task[None] | None = None
    _echo: float | None = None
    _closing: set[asyncio.Task[None]] = field(default_factory=set)
    _outbox: dict[int, dict[str, Any]] = field(default_factory=dict)
    _next_id: int = 0
    _alone: bool = False

    # ---------------------------------------------------------------------------------------------- speaking

    def report(self, event: Event) -> None:
        """Send an event upwards, now or when the supervisor is there again."""
        self.loop.call_soon_threadsafe(self._report, to_record(event))

    def say(self, message: Mapping[str, Any]) -> None:
        """Send something that may be lost."""
        self.loop.call_soon_threadsafe(self._send, message)

    @property
    def settled(self) -> bool:
        """True when the supervisor has acknowledged every report."""
        return not self._outbox

    @property
    def silent_s(self) -> float:
        """Seconds since the supervisor was heard."""
        return time.monotonic() - self.heard

    @property
    def anchor_s(self) -> float:
        """Seconds since the supervisor, or a majority, was heard over TCP."""
        return time.monotonic() - max(self.heard, self.majority)

    def _report(self, record: dict[str, Any]) -> None:
        self._next_id += 1
        message = {"t": "event", "id": self._next_id, "event": record}
        self._outbox[self._next_id] = message
        self._send(message)

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(message)
        except ChannelClosed as error:
            log.info("the supervisor is gone while it was spoken to: %s", error)

    # --------------------------------------------------------------------------------------------- listening

    async def run(self) -> None:
        """Connect, listen, connect again; until cancelled."""
        beats = asyncio.create_task(self._beat())
        try:
            while True:
                self._session_task = asyncio.create_task(self._session())
                followed = (await asyncio.wait([self._session_task]))[0].pop().cancelled()
                await asyncio.sleep(0.0 if followed else RETRY_S)
        finally:
            beats.cancel()
            if self._session_task is not None:
                self._session_task.cancel()

    def follow(self, address: tuple[str, int], epoch: int) -> bool:
        """Obey the supervisor of this epoch from now on; False where a higher one is known."""
        if epoch < self.epoch or (epoch == self.epoch and address == self.address):
            return epoch == self.epoch
        log.warning("the supervisor of epoch %d at %s:%d takes over from epoch %d", epoch, *address, self.epoch)
        self._send({"t": SUPERSEDED, "epoch": epoch})
        self.address, self.epoch, self.heard = address, epoch, time.monotonic()
        if self._session_task is not None:
            self._session_task.cancel()
        return True

    async def _session(self) -> None:
        try:
            channel = await connect(self.address, self.who, self.hello(), min_epoch=self.epoch)
        except FtslurmError as error:
            log.debug("no supervisor at %s:%d: %s", *self.address, error)
            return
        self._channel, self._echo = channel, None
        self.epoch = max(self.epoch, channel.peer.epoch)
        self.heard = time.monotonic()
        log.info("connected to the supervisor, epoch %d", self.epoch)
        for message in list(self._outbox.values()):
            self._send(message)
        self.on_connected()
        try:
            while True:
                self._take(await channel.recv())
        except ChannelClosed as error:
            log.info("the supervisor's connection is closed: %s", error)
        finally:
            self._channel = None
            # A lost host does not answer: nobody waits for it.
            closing = asyncio.ensure_future(channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _take(self, message: Mapping[str, Any]) -> None:
        self.heard = time.monotonic()
        kind = message.get("t")
        if kind == "ack":
            self._outbox.pop(int(message["id"]), None)
        elif kind == "peers":
            others = {str(node): (str(host), int(port)) for node, (host, port) in message["peers"].items()}
            others.pop(str(self.hello().get("node")), None)
            self.peers = others
        elif kind == "echo":
            self._echo = message.get("at")
            self.clock.echoed(message)
        else:
            self.on_message(message)

    async def _beat(self) -> None:
        number = 0
        while True:
            number += 1
            self.clock.sent(number)
            self._send({"t": "beat", "n": number, "echo": self._echo})
            if self.silent_s > self.deadman_s and not self._alone:
                await self._check_alone()
            elif self.silent_s <= self.deadman_s:
                self._alone = False
            await asyncio.sleep(self.interval_s)

    # ---------------------------------------------------------------------------------------------- dead man

    async def _check_alone(self) -> None:
        """Neither supervisor nor majority, over TCP or over the ring: stop the local ranks.

        A dead supervisor alone stops nobody.
        """
        if self.ring_s() <= self.deadman_s:
            return  # only the way over TCP is broken: this node has not been given up
        others = list(self.peers.values())
        answers = await asyncio.gather(*(self._answers(address) for address in others))
        reached = 1 + sum(answers)
        whole = len(others) + 1
        if reached * 2 > whole:
            self.majority = time.monotonic()
            return
        self._alone = True
        log.error(
            "no word of the supervisor for %.1f s and only %d of %d nodes can be reached: the ranks are stopped",
            time.monotonic() - self.heard,
            reached,
            whole,
        )
        self.on_alone()

    async def _answers(self, address: tuple[str, int]) -> bool:
        try:
            async with asyncio.timeout(PEER_DEADLINE_S):
                channel = await connect(address, self.who, HELLO_PEER)
                await channel.close()
        except (FtslurmError, TimeoutError):
            return False
        return True
