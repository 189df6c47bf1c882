"""An agent's connection to the supervisor: kept up for ever, beats on it, and loses no report.

Reports (events) have numbers and are sent again on every new connection until the supervisor has acknowledged them.
When the supervisor and a majority of the other agents are silent for the dead-man's time, this node is on the far side
of a partition: its ranks must not go on, because the others may already train without them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftslurm.core.events import Event
from ftslurm.core.records import to_record
from ftslurm.errors import FtslurmError
from ftslurm.runtime.control import Channel, ChannelClosed, Credentials, connect

log = logging.getLogger(__name__)

RETRY_S = 0.25
PEER_DEADLINE_S = 2.0
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
    _channel: Channel | None = None
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
                await self._session()
                await asyncio.sleep(RETRY_S)
        finally:
            beats.cancel()

    async def _session(self) -> None:
        try:
            channel = await connect(self.address, self.who, self.hello(), min_epoch=self.epoch)
        except FtslurmError as error:
            log.debug("no supervisor at %s:%d: %s", *self.address, error)
            return
        self._channel = channel
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
            await channel.close()

    def _take(self, message: Mapping[str, Any]) -> None:
        self.heard = time.monotonic()
        kind = message.get("t")
        if kind == "ack":
            self._outbox.pop(int(message["id"]), None)
        elif kind == "peers":
            self.peers = {str(node): (str(host), int(port)) for node, (host, port) in message["peers"].items()}
        elif kind != "echo":
            self.on_message(message)

    async def _beat(self) -> None:
        number = 0
        while True:
            number += 1
            self._send({"t": "beat", "n": number})
            silent_s = time.monotonic() - self.heard
            if silent_s > self.deadman_s and not self._alone:
                await self._check_alone()
            elif silent_s <= self.deadman_s:
                self._alone = False
            await asyncio.sleep(self.interval_s)

    # ---------------------------------------------------------------------------------------------- dead man

    async def _check_alone(self) -> None:
        """Neither supervisor nor majority: stop the local ranks. A dead supervisor alone stops nobody."""
        others = list(self.peers.values())
        answers = await asyncio.gather(*(self._answers(address) for address in others))
        reached = 1 + sum(answers)
        whole = len(others) + 1
        if reached * 2 > whole:
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
