"""The agent's side of the ring: talks to this node's member over loopback and passes on what it hears.

A change goes to the supervisor at once, else a report every `REFRESH_S`, so that its load stays small at any size. Only
the newest ring counts; the members of older ones are told to leave.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from ftslurm.core.ringing import Mark
from ftslurm.runtime.control import Channel, ChannelClosed

log = logging.getLogger(__name__)

REFRESH_S = 2.0


class LocalRing:
    """This node's member of the ring, as its agent knows it. Lives in the agent's event loop."""

    def __init__(self, say: Callable[[Mapping[str, Any]], None], anchor_s: Callable[[], float]) -> None:
        """`say` tells the supervisor; `anchor_s` is the age of its newest word here, or of a majority's."""
        self._say = say
        self._anchor_s = anchor_s
        self._live: Mark = (0, 0)
        self._dead: list[str] = []
        self._channel: Channel | None = None
        self._word = -math.inf
        self._told: tuple[object, float] = (None, 0.0)

    def word_s(self) -> float:
        """Return how old the newest word of the supervisor, or of a majority, is that came over the ring."""
        return time.monotonic() - self._word

    async def serve(self, channel: Channel) -> None:
        """Talk to a member until it is gone."""
        mark = _mark(channel.peer.hello.get("mark"))
        if mark < self._live:
            channel.send({"t": "leave"})
            await channel.recv()
            return
        self._dismiss()
        if mark > self._live:
            self._live, self._dead = mark, []
        self._channel = channel
        self._told = (None, 0.0)
        log.info("a member of ring %d.%d is here: %s", *mark, channel.peer.hello.get("library"))
        try:
            if self._dead:
                channel.send({"t": "dead", "nodes": self._dead})
            while True:
                self._take(channel, await channel.recv())
        except ChannelClosed as error:
            log.info("the member of ring %d.%d is gone: %s", *mark, error)
        finally:
            if self._channel is channel:
                self._gone()

    def obey(self, message: Mapping[str, Any]) -> None:
        """Take the supervisor's word: which ring counts, and who is left out of it."""
        mark = _mark(message.get("mark"))
        if mark < self._live:
            return
        if mark > self._live:
            self._dismiss()
        self._live, self._dead = mark, [str(node) for node in message.get("dead", ())]
        if self._dead:
            self._tell({"t": "dead", "nodes": self._dead})

    def leave(self) -> None:
        """Send the member away: the run is over here."""
        self._dismiss()
        self._live = (self._live[0] + 1, 0)

    def _take(self, channel: Channel, message: Mapping[str, Any]) -> None:
        now = time.monotonic()
        age_s = self._anchor_s()
        channel.send({"t": "anchor", "age_s": age_s if math.isfinite(age_s) else None})
        if channel is not self._channel:
            return
        if message.get("word_s") is not None:
            self._word = max(self._word, now - float(message["word_s"]))
        state = (message.get("watched"), message.get("heard"))
        if state != self._told[0] or now - self._told[1] >= REFRESH_S:
            self._told = (state, now)
            self._say({**message, "t": "ring", "mark": list(self._live)})

    def _dismiss(self) -> None:
        self._tell({"t": "leave"})
        if self._channel is not None:
            self._gone()

    def _gone(self) -> None:
        self._channel = None
        self._say({"t": "ring", "mark": list(self._live), "heard": "gone"})

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(message)
        except ChannelClosed as error:
            log.info("the ring's member is gone while it was spoken to: %s", error)


def _mark(value: object) -> Mark:
    epoch, number = value if isinstance(value, (list, tuple)) and len(value) == 2 else (0, 0)
    return int(epoch), int(number)
