"""The supervisor's side of the control channel: a thread that touches no file.

It answers beats, keeps the detector's histories, passes the agents' events on and sends the supervisor's words to them.
Because nothing here waits for storage, beats are answered while shared storage hangs, and no node is blamed for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftslurm.core.detector import (
    Health,
    History,
    Settings,
    late,
    limit_s,
    misses_many,
    observe,
    suspects,
    suspicion,
)
from ftslurm.core.events import AgentLost, AgentUp, Event, NodeHeard, NodeSuspected
from ftslurm.errors import CannotCreate
from ftslurm.runtime.control import Channel, ChannelClosed, Credentials, Limits, Server, serve
from ftslurm.runtime.uplink import REPLACED, SUPERSEDED
from ftslurm.runtime.wire import encode

log = logging.getLogger(__name__)

SWITCH_S = 0.0005
LARGE_BYTES = 4096
AT_ONCE = 32

Emit = Callable[[Event], None]
Message = Mapping[str, Any]


@dataclass
class _Peer:
    channel: Channel
    hello: dict[str, Any]


class Hub:
    """All connected agents. Methods may be called from any thread."""

    def __init__(
        self,
        who: Credentials,
        settings: Settings,
        emit: Emit,
        on_message: Callable[[str, Message], None],
        own_address: str = "",
    ) -> None:
        """`emit` takes events, `on_message` everything else that agents say; both must return at once.

        `own_address` is this node's: its agent is always heard, and no witness of the network.
        """
        self._who = who
        self._settings = settings
        self._emit = emit
        self._on_message = on_message
        self._peers: dict[str, _Peer] = {}
        self._agents: dict[str, dict[int, None]] = {}
        self._histories: dict[str, History] = {}
        self._suspected: set[str] = set()
        self._own_address = own_address
        self._near: set[str] = set()
        self._due: set[Callable[[], None]] = set()
        self._health = Health()
        self._calm_since = time.monotonic()
        self._answered: dict[str, float] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
        self.port = 0
        self.watching = True

    # ------------------------------------------------------------------------------------- from other threads

    def start(self, host: str, port: int, epoch: int) -> int:
        """Listen; returns the port. 0 takes any, and so does one that somebody else has.

        Raises:
            CannotCreate: the address cannot be bound.
        """
        # Every socket call gives up the interpreter's lock; a busy thread would keep it for 5 ms each time.
        sys.setswitchinterval(SWITCH_S)
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

    def soon(self, work: Callable[[], None], after_s: float) -> None:
        """Have something done after a while, once for many calls. To be called in the hub's thread only."""
        if work not in self._due:
            self._due.add(work)
            self._loop.call_later(after_s, self._do_due, work)

    @property
    def connected(self) -> tuple[str, ...]:
        """The nodes whose agents are connected."""
        return tuple(self._peers)

    def last_heard_first(self) -> tuple[str, ...]:
        """Return the watched nodes, the one that was heard last first: two nodes may fall silent at once."""
        known = dict(self._histories)
        return tuple(sorted(known, key=lambda node: known[node].last, reverse=True))

    def phi_max(self) -> float:
        """Return the suspicion of the node that is suspected most; 0 where none is watched."""
        now, known = time.monotonic(), dict(self._histories)
        return max((suspicion(each, now, self._settings) for each in known.values()), default=0.0)

    def ports(self) -> dict[str, int]:
        """Return where every connected agent listens for ranks and peers."""
        return {node: int(peer.hello.get("port", 0)) for node, peer in list(self._peers.items())}

    def forget(self, node: str) -> None:
        """Stop watching a node that has been given up."""
        self._loop.call_soon_threadsafe(self._forget, node)

    def freshness_s(self, nodes: tuple[str, ...]) -> float:
        """Return how long ago the newest word was sent that a majority of `nodes` has answered, in seconds."""
        answered = dict(self._answered)
        sent = sorted((answered[node] for node in nodes if node in answered), reverse=True)
        needed = len(nodes) // 2 + 1
        return time.monotonic() - sent[needed - 1] if len(sent) >= needed else float("inf")

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
            limits = Limits(pending=max(Limits().pending, 2 * self._settings.nodes))
            server = await self._open(limits)
        except CannotCreate as error:
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

    async def _open(self, limits: Limits) -> Server:
        """Take the port that is wanted. Where some connection of this host has it, agents are started again."""
        host, port = self._address
        try:
            return await serve((host, port), self._who, epoch=self._epoch, on_channel=self._serve, limits=limits)
        except CannotCreate as error:
            if not port:
                raise
            log.warning("%s: the agents are started again", error)
            return await serve((host, 0), self._who, epoch=self._epoch, on_channel=self._serve, limits=limits)

    async def _serve(self, channel: Channel) -> None:
        hello = channel.peer.hello
        node = str(hello.get("node", ""))
        if hello.get("role") != "agent" or not node:
            log.warning("a peer from %s is no agent", channel.peer.address)
            return
        if int(hello.get("epoch") or 0) > self._epoch:
            self._on_message(node, {"t": SUPERSEDED, "epoch": hello["epoch"]})
            return
        if self._is_replaced(node, int(hello.get("port", 0))):
            channel.send({"t": REPLACED})
            return
        known = self._peers.get(node)
        self._peers[node] = peer = _Peer(channel=channel, hello=dict(hello))
        if known is not None:
            await known.channel.close()
        self._heard(node)
        address = str(hello.get("address") or channel.peer.address)
        if address == self._own_address:
            self._near.add(node)
        port, attempt = int(hello.get("port", 0)), hello.get("attempt")
        scratch = bool(hello.get("scratch", True))
        self._emit(AgentUp(node=node, address=address, port=port, attempt=attempt, scratch=scratch))
        reason = "closed"
        try:
            while True:
                self._take(node, await channel.recv())
        except ChannelClosed as error:
            reason = str(error) or reason
        finally:
            if self._peers.get(node) is peer:
                del self._peers[node]
                patience = self._patience(self._histories.pop(node, None))
                self._suspected.discard(node)
                self._emit(AgentLost(node=node, reason=reason, patience=patience))

    def _is_replaced(self, node: str, port: int) -> bool:
        """Whether a later agent of this node has connected: two would take each other's place for ever."""
        ports = self._agents.setdefault(node, {})
        if port in ports and port != next(reversed(ports)):
            log.warning("an agent of %s (port %d) is told that another one has taken its place", node, port)
            return True
        ports[port] = None
        return False

    def _take(self, node: str, message: dict[str, Any]) -> None:
        self._heard(node)
        if message.get("t") == "beat":
            if message.get("echo") is not None:
                self._answered[node] = float(message["echo"])
            self._send(node, {"t": "echo", "n": message.get("n"), "at": time.monotonic(), "wall": time.time()})
            return
        self._on_message(node, message)

    def _heard(self, node: str) -> None:
        self._histories[node] = observe(self._histories.get(node), time.monotonic(), self._settings)
        if node in self._suspected:
            self._suspected.discard(node)
            self._emit(NodeHeard(node=node))

    def _send_all(self, message: Message) -> None:
        payload = encode(message)
        at_once = len(self._peers) if len(payload) < LARGE_BYTES else AT_ONCE
        self._send_some(payload, tuple(self._peers), at_once)

    def _send_some(self, payload: bytes, nodes: tuple[str, ...], at_once: int) -> None:
        """Send what is large to some at a time: beats are answered in between."""
        for node in nodes[:at_once]:
            self._send(node, payload)
        if nodes[at_once:]:
            self._loop.call_soon(self._send_some, payload, nodes[at_once:], at_once)

    def _do_due(self, work: Callable[[], None]) -> None:
        self._due.discard(work)
        work()

    def _send(self, node: str, message: Message | bytes) -> None:
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
                self._trust_less(now, f"this process stood still for {now - before:.1f} s")
                continue
            self._find_suspects(now)

    def _find_suspects(self, now: float) -> None:
        silent = late(self._histories, now, self._settings) - self._near
        watched = len(self._histories.keys() - self._near)
        if misses_many(len(silent - self._suspected), watched):
            if not self._health.score:
                self._trust_less(now, f"{len(silent)} of {watched} nodes fell silent at once")
        elif now - self._calm_since > self._settings.suspect_after_s and self._health.score:
            self._health, self._calm_since = self._health.better(), now
        if not self.watching:
            return
        for node, seconds in suspects(self._histories, now, self._settings, self._health).items():
            if node not in self._suspected:
                self._suspected.add(node)
                self._suspect(node, seconds, now, peers=watched - 1, silent=len(silent - {node}))

    def _suspect(self, node: str, seconds: float, now: float, *, peers: int, silent: int) -> None:
        history = self._histories[node]
        phi = suspicion(history, now, self._settings)
        self._emit(
            NodeSuspected(
                node=node, silent_s=seconds, phi=phi, peers_silent=silent, peers=peers, patience=self._patience(history)
            )
        )

    def _patience(self, history: History | None) -> float:
        """How many times the configured silence a node is given, because its beats came unevenly."""
        return round(limit_s(history, self._settings) / self._settings.suspect_after_s, 2) if history else 1.0

    def _trust_less(self, now: float, why: str) -> None:
        """Be more patient for a while: it may be this observer who does not hear (Lifeguard's local health)."""
        self._health, self._calm_since = self._health.worse(), now
        log.warning("%s: silence counts %.0f times as late from here on", why, self._health.patience)
