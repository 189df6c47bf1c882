"""The supervisor's side of the control channel: a thread that touches no file.

It answers beats, keeps the detector's histories, passes the agents' events on and sends the supervisor's words to them.
Because nothing here waits for storage, beats are answered while shared storage hangs, and no node is blamed for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftslurm.core.detector import History, Settings, observe, suspects, suspicion
from ftslurm.core.events import AgentLost, AgentUp, Event, NodeHeard, NodeSuspected
from ftslurm.runtime.control import Channel, ChannelClosed, Credentials, serve

log = logging.getLogger(__name__)

Emit = Callable[[Event], None]
Message = Mapping[str, Any]


@dataclass
class _Peer:
    channel: Channel
    hello: dict[str, Any]


class Hub:
    """All connected agents. Methods may be called from any thread."""

    def __init__(
        self, who: Credentials, settings: Settings, emit: Emit, on_message: Callable[[str, Message], None]
    ) -> None:
        """`emit` takes events, `on_message` everything else that agents say; both must return at once."""
        self._who = who
        self._settings = settings
        self._emit = emit
        self._on_message = on_message
        self._peers: dict[str, _Peer] = {}
        self._histories: dict[str, History] = {}
        self._suspected: set[str] = set()
        self._answered: dict[str, float] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self.port = 0
        self.watching = True

    # ------------------------------------------------------------------------------------- from other threads

    def start(self, host: str, port: int, epoch: int) -> int:
        """Listen; returns the port. `port` 0 takes any.

        Raises:
            OSError: the address cannot be bound.
        """
        self._address = (host, port)
        self._epoch = epoch
        self._thread.start()
        self._ready.wait(10.0)
        if self._error is not None:
            raise self._error
        return self.port

    def send(self, node: str, message: Message) -> bool:
        """Queue a message for an agent; False when it is not connected."""
        if node not in self._peers:
            return False
        self._loop.call_soon_threadsafe(self._send, node, message)
        return True

    def broadcast(self, message: Message) -> None:
        """Queue a message for every connected agent."""
        self._loop.call_soon_threadsafe(self._send_all, message)

    @property
    def connected(self) -> tuple[str, ...]:
        """The nodes whose agents are connected."""
        return tuple(self._peers)

    def last_heard_first(self) -> tuple[str, ...]:
        """Return the watched nodes, the one that was heard last first: two nodes may fall silent at once."""
        known = dict(self._histories)
        return tuple(sorted(known, key=lambda node: known[node].last, reverse=True))

    def ports(self) -> dict[str, int]:
        """Return where every connected agent listens for ranks and peers."""
        return {node: int(peer.hello.get("port", 0)) for node, peer in list(self._peers.items())}

    def forget(self, node: str) -> None:
        """Stop watching a node that has been given up."""
        self._loop.call_soon_threadsafe(self._forget, node)

    def freshness_s(self, nodes: tuple[str, ...]) -> float:
        """Return the age, in seconds, of the newest moment at which a majority of `nodes` was heard."""
        heard = sorted((self._histories[node].last for node in nodes if node in self._histories), reverse=True)
        needed = len(nodes) // 2 + 1
        return time.monotonic() - heard[needed - 1] if len(heard) >= needed else float("inf")

    def close(self, timeout_s: float) -> None:
        """Close all channels and end the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout_s)

    # ---------------------------------------------------------------------------------------- inside the loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        try:
            server = await serve(self._address, self._who, epoch=self._epoch, on_channel=self._serve)
        except OSError as error:
            self._error = error
            self._ready.set()
            return
        self.port = server.port
        self._ready.set()
        watch = asyncio.create_task(self._watch())
        await self._stop.wait()
        watch.cancel()
        await asyncio.sleep(0.2)
        await server.close()

    async def _serve(self, channel: Channel) -> None:
        hello = channel.peer.hello
        node = str(hello.get("node", ""))
        if hello.get("role") != "agent" or not node:
            log.warning("a peer from %s is no agent", channel.peer.address)
            return
        known = self._peers.get(node)
        self._peers[node] = peer = _Peer(channel=channel, hello=dict(hello))
        if known is not None:
            await known.channel.close()
        self._heard(node)
        address = str(hello.get("address") or channel.peer.address)
        self._emit(AgentUp(node=node, address=address, port=int(hello.get("port", 0)), attempt=hello.get("attempt")))
        reason = "closed"
        try:
            while True:
                self._take(node, await channel.recv())
        except ChannelClosed as error:
            reason = str(error) or reason
        finally:
            if self._peers.get(node) is peer:
                del self._peers[node]
                self._histories.pop(node, None)
                self._suspected.discard(node)
                self._emit(AgentLost(node=node, reason=reason))

    def _take(self, node: str, message: dict[str, Any]) -> None:
        self._heard(node)
        if message.get("t") == "beat":
            self._send(node, {"t": "echo", "n": message.get("n")})
            return
        self._on_message(node, message)

    def _heard(self, node: str) -> None:
        self._histories[node] = observe(self._histories.get(node), time.monotonic(), self._settings)
        if node in self._suspected:
            self._suspected.discard(node)
            self._emit(NodeHeard(node=node))

    def _send_all(self, message: Message) -> None:
        for node in list(self._peers):
            self._send(node, message)

    def _send(self, node: str, message: Message) -> None:
        peer = self._peers.get(node)
        if peer is None:
            return
        try:
            peer.channel.send(message)
        except ChannelClosed as error:
            log.info("%s is gone while it was spoken to: %s", node, error)

    def _forget(self, node: str) -> None:
        self._histories.pop(node, None)
        self._suspected.discard(node)

    async def _watch(self) -> None:
        pause = self._settings.interval_s / 2
        while True:
            before = time.monotonic()
            await asyncio.sleep(pause)
            now = time.monotonic()
            if now - before > pause + self._settings.suspect_after_s / 2:
                # This process itself stood still: nobody is to blame for silence that was not listened to.
                self._histories = {node: replace(history, last=now) for node, history in self._histories.items()}
                continue
            self._find_suspects(now)

    def _find_suspects(self, now: float) -> None:
        silent = suspects(self._histories, now, self._settings)
        for node, seconds in silent.items():
            if node in self._suspected or not self.watching:
                continue
            self._suspected.add(node)
            phi = suspicion(self._histories[node], now, self._settings)
            self._emit(
                NodeSuspected(
                    node=node, silent_s=seconds, phi=phi, peers_silent=len(silent) - 1, peers=len(self._histories) - 1
                )
            )
