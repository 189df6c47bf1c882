"""Partner copies that this node was asked for: one at a time for each owner, the newest first.

A copy may take longer than the time between two checkpoints. What is asked for meanwhile waits, and of that only the
newest checkpoint, and one that it builds upon, are still of use. The work has threads of its own: nothing else that an
agent has to do may wait for it, least of all the end of an attempt.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ftslurm.core.actions import Pair
from ftslurm.core.manifest import parse_generation

log = logging.getLogger(__name__)

MOST_WAITING = 2


class Errands:
    """`work` takes one copy, and reports by itself how that went."""

    def __init__(self, work: Callable[[str, Pair], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: dict[str, dict[str, Pair]] = {}
        self._now: dict[str, str] = {}

    def ask(self, generation: str, pair: Pair) -> None:
        """Take a copy as soon as possible; asking twice is as good as once."""
        with self._lock:
            if self._now.get(pair.owner) == generation:
                return
            waiting = self._waiting.setdefault(pair.owner, {})
            waiting.pop(generation, None)
            waiting[generation] = pair
            for overtaken in list(waiting)[:-MOST_WAITING]:
                log.info("checkpoint %s of %s is not copied: newer ones wait", overtaken, pair.owner)
                del waiting[overtaken]
            if pair.owner in self._now:
                return
            self._now[pair.owner] = ""
        threading.Thread(target=self._serve, args=(pair.owner,), name="copies", daemon=True).start()

    def _serve(self, owner: str) -> None:
        while (errand := self._next(owner)) is not None:
            try:
                self._work(*errand)
            except Exception:
                log.exception("the copy of %s of %s came to nothing", errand[0], owner)

    def _next(self, owner: str) -> tuple[str, Pair] | None:
        with self._lock:
            waiting = self._waiting[owner]
            if not waiting:
                del self._now[owner]
                return None
            generation = max(waiting, key=parse_generation)
            self._now[owner] = generation
            return generation, waiting.pop(generation)
