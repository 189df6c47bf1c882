"""Which node digests, or reads again, which files of a checkpoint that lies on shared storage.

Everybody computes the same shares from the same sizes and nodes, so that nobody has to be told.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping


def shares(sizes: Mapping[str, int], nodes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the names for each node, sorted; the largest files first to whoever has the least so far.

    No node has more than the mean and the largest file together.
    """
    least = [(0, node) for node in sorted(set(nodes))]
    found: dict[str, list[str]] = {node: [] for _, node in least}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)) if least else ():
        load, node = least[0]
        found[node].append(name)
        # An empty file costs something, too: opening it.
        heapq.heapreplace(least, (load + sizes[name] + 1, node))
    return {node: tuple(sorted(names)) for node, names in found.items()}
