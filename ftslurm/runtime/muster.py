"""Collects the ranks of an attempt until the world is whole."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftslurm.core.events import WorldMustered


@dataclass
class Muster:
    """Who has registered for one attempt. Used from the hub's thread and the supervisor's."""

    attempt: int
    world_size: int
    addresses: dict[str, str]
    nodes: dict[int, str] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)
    steps: set[str] = field(default_factory=set)
    whole: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, node: str, message: Mapping[str, Any]) -> WorldMustered | None:
        """Note a registration; returns the event when it made the world whole, once."""
        with self._lock:
            first = int(message["rank"])
            for rank in range(first, first + int(message.get("ranks") or 1)):
                self.nodes[rank] = node
                self.ports[rank] = int(message["port"])
            if message.get("step"):
                self.steps.add(str(message["step"]))
            # What the launcher has started counts: one rank too few would never come, one too many must not be missed.
            world = int(message.get("world") or self.world_size)
            if self.whole or len(self.nodes) < world or set(self.nodes) != set(range(len(self.nodes))):
                return None
            self.whole = True
            return WorldMustered(
                attempt=self.attempt,
                placement=tuple(self.nodes[each] for each in range(len(self.nodes))),
                master_addr=self.addresses.get(self.nodes[0], self.nodes[0]),
                master_port=self.ports[0],
            )
