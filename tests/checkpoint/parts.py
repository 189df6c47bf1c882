"""One captured part on its way to a store: what the tests of draining share."""

from __future__ import annotations

from ftslurm.checkpoint.capture import Captured
from ftslurm.checkpoint.commit import prepare_store
from ftslurm.checkpoint.drain import Target
from ftslurm.core.manifest import CHUNK_BYTES
from tests.checkpoint.world import AT, RUN, World, some_bytes

NAME = "step_5/rank_0.pt"
SIZE = 6 * CHUNK_BYTES + 77
LIMIT_S = 60.0


def part(world: World, files: dict[str, bytes] | None = None, node: str = "n1") -> Captured:
    """A captured part of step 5, and an empty store."""
    prepare_store(world.store, RUN, AT)
    return world.capture(node, 5, files or {NAME: some_bytes(SIZE, 5)})


def target(world: World, **more: object) -> Target:
    """The store of the world, with little patience."""
    return Target(destination=str(world.store), **({"patience_s": 0.0} | more))


def arrived(world: World, name: str = NAME) -> bytes:
    """What lies in the store."""
    return (world.paths.generation("000000005-0000").data / name).read_bytes()
