from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest

from ftslurm.checkpoint import restore as restore_module
from ftslurm.checkpoint.commit import local_records, write_local_record
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.pacing import Pacer
from ftslurm.checkpoint.restore import Sources, clean_restores, materialise
from ftslurm.checkpoint.store import read_commit
from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.errors import DataDamaged, StorageError, TryAgain
from tests.checkpoint.world import World, some_bytes

NEW = "000000020-0000"


def two_nodes(step: int) -> dict[str, dict[str, bytes]]:
    """One file a node, in the step's folder."""
    return {
        "n1": {f"step_{step}/rank_0.pt": some_bytes(CHUNK_BYTES + 5, step)},
        "n2": {f"step_{step}/rank_1.pt": some_bytes(CHUNK_BYTES + 5, step + 1)},
    }


def test_a_node_links_its_own_part_and_copies_the_rest(world: World) -> None:
    """Own bytes are verified where they are and linked; those of other nodes come from shared storage."""
    world.save(20, two_nodes(20))
    generation, result, _ = world.restore_newest("n1")
    assert result.source == "scratch=1 shared=1"
    assert result.path == world.scratch("n1").restore(generation) / "step_20"
    own = world.scratch("n1").generation(generation).data / "step_20/rank_0.pt"
    assert (result.path / "rank_0.pt").stat().st_ino == own.stat().st_ino
    world.assert_restored(generation, "n1")


def test_a_single_file_is_handed_over_itself(world: World) -> None:
    """A program that saves one file gets one file back."""
    world.save(20, {"n1": {"step_20.pt": b"one"}})
    _, result, _ = world.restore_newest("n2")
    assert result.path.read_bytes() == b"one"
    assert result.size_bytes == 3


def test_restoring_twice_reads_but_does_not_copy_again(world: World) -> None:
    """A second restart from the same checkpoint finds it there, and verifies it all the same."""
    world.save(20, two_nodes(20))
    world.restore_newest("n3")
    _, result, _ = world.restore_newest("n3")
    assert result.source == "kept=2"
    (result.path / "rank_0.pt").write_bytes(b"written over by the program")
    _, result, _ = world.restore_newest("n3")
    assert result.source == "kept=1 shared=1"
    world.assert_restored(NEW, "n3")


def test_what_else_lies_in_the_folder_is_removed(world: World) -> None:
    """The program sees the checkpoint's files and nothing else, also after a restore that was killed."""
    world.save(20, two_nodes(20))
    folder = world.scratch("n1").restore(NEW)
    (folder / "step_20").mkdir(parents=True)
    (folder / "step_20" / "rank_7.pt").write_bytes(b"stray")
    (folder / "link").symlink_to("/etc")
    world.restore_newest("n1")
    world.assert_restored(NEW, "n1")


def test_a_local_generation_restores_where_its_parts_can_be_read(world: World) -> None:
    """The LOCAL record is enough: own part from scratch, the other node's pushed to shared storage, no COMMIT."""
    world.save(10, two_nodes(10))
    captured = {node: world.capture(node, 20, files) for node, files in two_nodes(20).items()}
    record = world.commit(20, captured)
    own = world.scratch("n1")
    sources = Sources(shared=world.store, own=own.generations, patience_s=0)
    with pytest.raises(DataDamaged, match="the manifest of n2"):
        materialise(record, sources, own.restores)
    assert drain_part(captured["n2"].folder, "n2", Target(destination=str(world.store))).ok
    materialise(record, sources, own.restores)
    world.assert_restored(NEW, "n1")


def test_the_record_decides_not_the_folder(world: World) -> None:
    """A generation whose manifests are sound, but not those of the record, is refused."""
    world.save(20, two_nodes(20))
    other = World(world.root / "other")
    other.save(20, {"n1": {"step_20/rank_0.pt": b"x"}, "n2": {"step_20/rank_1.pt": b"y"}})
    commit, _ = read_commit(other.store, NEW)
    with pytest.raises(DataDamaged, match="was changed"):
        materialise(commit, Sources(shared=world.store, patience_s=0), world.scratch("n1").restores)


def test_what_another_host_has_just_written_is_waited_for(world: World) -> None:
    """An NFS client may not see a new file at once: a missing one is looked for again."""
    world.save(20, two_nodes(20))
    commit, _ = read_commit(world.store, NEW)
    path = world.paths.generation(NEW).data / "step_20/rank_1.pt"
    path.rename(path.with_name("not-yet"))
    threading.Timer(0.6, lambda: path.with_name("not-yet").rename(path)).start()
    materialise(commit, Sources(shared=world.store, patience_s=60), world.scratch("n1").restores)
    world.assert_restored(NEW, "n1")


def test_a_source_that_cannot_be_read_is_not_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO says nothing about the bytes: the generation must not be set aside for it."""
    world.save(20, two_nodes(20))
    commit, _ = read_commit(world.store, NEW)

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "rank_1.pt")

    monkeypatch.setattr(restore_module.Copier, "bring", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        materialise(commit, Sources(shared=world.store, patience_s=0), world.scratch("n3").restores)


def test_a_full_scratch_is_not_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC is the fault of the place that is written to."""
    world.save(20, two_nodes(20))
    commit, _ = read_commit(world.store, NEW)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "rank_1.pt")

    monkeypatch.setattr(restore_module.Copier, "bring", full)
    with pytest.raises(StorageError, match="No space left"):
        materialise(commit, Sources(shared=world.store, patience_s=60), world.scratch("n3").restores)


def test_without_any_place_nothing_can_be_restored(world: World) -> None:
    """Neither scratch nor shared storage is an error of the set-up, not of the data."""
    world.save(20, two_nodes(20))
    commit, _ = read_commit(world.store, NEW)
    own = world.scratch("n1").generations
    with pytest.raises((StorageError, DataDamaged)):
        materialise(commit, Sources(own=own, patience_s=0), None)


def test_a_restore_can_be_stopped(world: World) -> None:
    """A relaunch that was overtaken does not go on reading."""
    world.save(20, two_nodes(20))
    commit, _ = read_commit(world.store, NEW)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TryAgain):
        materialise(commit, Sources(shared=world.store), world.scratch("n3").restores, pace=Pacer(stop=stop))


def test_old_restores_are_removed(world: World) -> None:
    """Only the generations that are asked for stay; other things are not touched."""
    world.save(10, two_nodes(10))
    world.restore_newest("n1")
    world.save(20, two_nodes(20))
    world.restore_newest("n1")
    restores = world.scratch("n1").restores
    (restores / "notes").mkdir()
    assert clean_restores(restores, {NEW}) == ("000000010-0000",)
    assert sorted(path.name for path in restores.iterdir()) == [NEW, "notes"]
    assert clean_restores(world.root / "nowhere", set()) == ()


def test_a_large_file_is_restored_in_small_memory(world: World) -> None:
    """Memory stays near the buffer's size, whatever the file's size."""
    import tracemalloc

    size = 48 * CHUNK_BYTES
    world.save(20, {"n1": {"step_20.pt": some_bytes(size, 1)}})
    commit, _ = read_commit(world.store, NEW)
    tracemalloc.start()
    materialise(commit, Sources(shared=world.store), world.scratch("n3").restores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * CHUNK_BYTES


def test_local_records_are_for_people(world: World) -> None:
    """They can be read back, oldest first; a damaged one is left out."""
    world.save(10, two_nodes(10))
    for step in (30, 20):
        captured = {node: world.capture(node, step, files) for node, files in two_nodes(step).items()}
        write_local_record(world.store, world.commit(step, captured))
    (world.paths.local_records / "000000040-0000.json").write_bytes(b"{")
    assert [record.step for record in local_records(world.store)] == [20, 30]


def test_a_rate_limit_slows_a_pacer_and_progress_is_told() -> None:
    """Bytes over rate is the least time; progress never exceeds the total."""
    told: list[tuple[int, int]] = []
    pacer = Pacer(rate_limit=1000, progress=lambda *numbers: told.append(numbers))
    pacer.begin(150)
    began = time.monotonic()
    pacer(100)
    pacer(100)
    assert time.monotonic() - began >= 0.2
    assert told == [(100, 150), (150, 150)]


def test_the_place_of_a_restore_is_made(world: World, tmp_path: Path) -> None:
    """The first restore on a fresh node creates its folders."""
    world.save(20, two_nodes(20))
    commit, _ = read_commit(world.store, NEW)
    result = materialise(commit, Sources(shared=world.store), tmp_path / "fresh" / "restore")
    assert (result.path / "rank_1.pt").read_bytes() == some_bytes(CHUNK_BYTES + 5, 21)
