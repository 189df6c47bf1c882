"""The nodes of a simulated cluster: which are broken until when, and who repairs them."""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from math import inf


class Fleet:
    """All nodes that Slurm can choose among, by number from 0. Times must not go back."""

    def __init__(self, nodes: int, repairers: int = 0) -> None:
        """`repairers` nodes are repaired at a time, the first to break first; 0: all at once."""
        self._until = [0.0] * nodes
        self._ends: list[float] = []
        self._hidden = 0
        self._free = [0.0] * repairers

    def is_broken(self, node: int, now: float) -> bool:
        """Whether the node is out of order."""
        return self._until[node] > now

    def fail(self, node: int, now: float, repair_s: float) -> None:
        """The node breaks, and its repair takes so long once somebody begins with it."""
        begin = now
        if self._free:
            begin = max(now, self._free[0])
            heapreplace(self._free, begin + repair_s)
        self._until[node] = begin + repair_s
        heappush(self._ends, begin + repair_s)

    def hide(self, node: int) -> None:
        """The node breaks, and nobody knows."""
        self._until[node] = inf
        self._hidden += 1

    def find(self, node: int, now: float, repair_s: float) -> None:
        """What was hidden is known: the repair begins."""
        self._hidden -= 1
        self.fail(node, now, repair_s)

    def healthy(self, now: float) -> int:
        """How many nodes are in order."""
        while self._ends and self._ends[0] <= now:
            heappop(self._ends)
        return len(self._until) - len(self._ends) - self._hidden

    def in_order(self, now: float) -> list[int]:
        """The nodes that are in order, by number."""
        return [node for node, until in enumerate(self._until) if until <= now]

    def when(self, count: int) -> float:
        """When so many nodes will be in order, if nothing else breaks."""
        return sorted(self._until)[count - 1]
