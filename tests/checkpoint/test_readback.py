from __future__ import annotations

import pytest

from ftslurm.checkpoint import readback
from ftslurm.checkpoint.store import read_commit
from ftslurm.core.manifest import CHUNK_BYTES
from tests.checkpoint.world import World, some_bytes

FILES = {"n1": {"step_5.pt": some_bytes(3 * CHUNK_BYTES + 5, 5)}, "n2": {"empty": b""}}


def test_what_was_written_is_found_as_written(world: World) -> None:
    """A sample of a sound generation, and all of it, show nothing."""
    name = world.save(5, FILES)
    commit, _ = read_commit(world.store, name)
    assert readback.sample(world.store, commit) == ""
    assert readback.scrub(world.store, name) == ""


@pytest.mark.parametrize("place", [0, CHUNK_BYTES, 3 * CHUNK_BYTES + 4])
def test_a_changed_byte_is_found(world: World, place: int) -> None:
    """By the scrub always; by a sample as soon as it is large enough to hit it."""
    name = world.save(5, FILES)
    path = world.paths.generation(name).data / "step_5.pt"
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 4]))
    commit, _ = read_commit(world.store, name)
    assert "step_5.pt: chunk" in readback.scrub(world.store, name)
    assert f"step_5.pt: chunk {place // CHUNK_BYTES}" in readback.sample(world.store, commit, 500)


def test_a_missing_file_is_told(world: World) -> None:
    """Nothing hides behind a file that is not there."""
    name = world.save(5, FILES)
    commit, _ = read_commit(world.store, name)
    (world.paths.generation(name).manifests / "n1.json").write_bytes(b"{}")
    assert "manifest of n1 was changed" in readback.sample(world.store, commit)
    assert readback.scrub(world.store, name)
