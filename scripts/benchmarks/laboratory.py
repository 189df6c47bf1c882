"""The lab that a benchmark runs on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftslurm.lab.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

NODES = 4
OWN = "bench"


@contextmanager
def laboratory(name: str, nodes: int = NODES) -> Iterator[Cluster]:
    """A lab that is up: the named one, which stays up, or one of our own that is taken down at the end."""
    lab = Cluster(name or OWN)
    if name:
        yield lab
        return
    lab.up(nodes)
    try:
        yield lab
    finally:
        lab.down(purge=True)
