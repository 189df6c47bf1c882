"""A crash at every boundary: what is found afterwards is the old state or the new one, never a mixture."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm.checkpoint import versions
from ftslurm.checkpoint.capture import capture
from ftslurm.checkpoint.commit import commit_durable, quarantine
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.restore import Sources, materialise
from ftslurm.checkpoint.retention import apply
from ftslurm.checkpoint.store import scan
from ftslurm.core.manifest import NodeManifest
from ftslurm.core.retention import Rules
from ftslurm.errors import DataDamaged
from tests.checkpoint.crashdisk import Disk, Kept, record, run_and_die, states
from tests.checkpoint.world import AT, World, some_bytes

OLD, NEW = "000000010-0000", "000000020-0000"


def content(step: int) -> dict[str, dict[str, bytes]]:
    """Two nodes, one file in a folder and one beside it."""
    return {
        "n1": {f"step_{step}/deep/rank_0.pt": some_bytes(5000, step), f"step_{step}.json": b"{}"},
        "n2": {f"step_{step}/rank_1.pt": some_bytes(3000, step + 1)},
    }


@pytest.fixture
def world() -> Iterator[World]:
    """In memory where possible; step 10 is durable, step 20 captured on both nodes."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = World(Path(folder) / "w")
        made.root.mkdir()
        made.save(10, content(10))
        yield made


def capture_new(world: World):
    """Step 20 on both nodes."""
    return {node: world.capture(node, 20, files) for node, files in content(20).items()}


def assert_old_or_new(world: World, store: Path, why: str) -> set[str]:
    """Every generation that the store offers has all its bytes; the old one is always there."""
    offered: set[str] = set()
    found = scan(store)
    assert not [each for each in found.refused if each.damaged and each.generation == OLD], why
    for stored in found.generations:
        place = store.parent / "restored"
        materialise(stored.commit, Sources(shared=store, patience_s=0), place)
        for name, wanted in world.contents[stored.generation].items():
            assert (place / stored.generation / name).read_bytes() == wanted, why
        offered.add(stored.generation)
    return offered


def make_durable(world: World, captured) -> None:
    """What agents and supervisor do with step 20."""
    for node, part in captured.items():
        report = drain_part(part.folder, node, Target(destination=str(world.store), patience_s=0))
        assert report.ok, report
    commit_durable(world.store, world.commit(20, captured), patience_s=0)


def test_a_power_cut_at_any_moment_of_drain_and_commit(world: World, tmp_path: Path) -> None:
    """With every unsynced byte and name dropped or kept, step 20 is whole or not offered, and step 10 always is."""
    captured = capture_new(world)
    before = Disk.of(world.store)
    with record(world.store) as ops:
        make_durable(world, captured)
    seen: set[bool] = set()
    for why, root in states(before, ops, world.root / "states"):
        offered = assert_old_or_new(world, root, why)
        assert OLD in offered, why
        seen.add(NEW in offered)
        shutil.rmtree(root)
        shutil.rmtree(root.parent / "restored", ignore_errors=True)
    assert seen == {True, False}


def test_what_the_commit_promised_survives_a_power_cut(world: World) -> None:
    """Once commit_durable has returned, no unsynced byte or name is needed."""
    captured = capture_new(world)
    before = Disk.of(world.store)
    with record(world.store) as ops:
        make_durable(world, captured)
    for op in ops:
        before.apply(op)
    root = world.root / "after"
    root.mkdir()
    before.write_to(root, safe_names=True, kept=Kept.SYNCED)
    assert assert_old_or_new(world, root, "after the commit") == {OLD, NEW}


def test_a_power_cut_after_a_drain_that_was_killed_and_taken_up_again(world: World) -> None:
    """What the killed one left in memory only is made safe by the one that finishes, not taken for safe."""
    captured = capture_new(world)
    pristine = world.root / "pristine"
    shutil.copytree(world.store, pristine)
    with record(world.store) as ops:
        make_durable(world, captured)
    for moment in range(len(ops)):
        disk = Disk.of(pristine)
        for op in ops[:moment]:
            disk.apply(op)
        shutil.rmtree(world.store)
        world.store.mkdir()
        disk.write_to(world.store, safe_names=False, kept=Kept.WRITTEN)
        with record(world.store) as again:
            make_durable(world, captured)
        for op in again:
            disk.apply(op)
        root = world.root / f"after-{moment}"
        root.mkdir()
        disk.write_to(root, safe_names=True, kept=Kept.SYNCED)
        assert assert_old_or_new(world, root, f"killed after {ops[:moment][-1:]}") == {OLD, NEW}


def test_a_power_cut_at_any_moment_of_deleting(world: World) -> None:
    """While step 10 is deleted, step 20 is always whole; step 10 is whole or gone."""
    make_durable(world, capture_new(world))
    before = Disk.of(world.store)
    with record(world.store) as ops:
        assert apply(world.store, Rules(last=1), now=AT) == (OLD,)
    for why, root in states(before, ops, world.root / "states"):
        found = scan(root)
        assert NEW in {each.generation for each in found.generations}, why
        assert_old_or_new_or_gone(world, root, why)
        shutil.rmtree(root)
        shutil.rmtree(root.parent / "restored", ignore_errors=True)


def test_a_power_cut_at_any_moment_of_a_rollback(world: World) -> None:
    """The run goes on from the newest or from the one that was gone back to; both are whole, and a repetition ends it."""
    make_durable(world, capture_new(world))
    before = Disk.of(world.store)
    with record(world.store) as ops:
        versions.roll_back(world.store, versions.find(world.store, OLD), attempt=0, now=AT)
    for why, root in states(before, ops, world.root / "states"):
        found = scan(root)
        assert [each.generation for each in found.generations] in ([OLD, NEW], [OLD]), why
        versions.roll_back(root, versions.find(root, OLD), attempt=0, now=AT)
        assert [each.generation for each in scan(root).generations] == [OLD], why
        assert scan(root).abandoned == (NEW,), why
        shutil.rmtree(root)


def assert_old_or_new_or_gone(world: World, store: Path, why: str) -> None:
    """As `assert_old_or_new`, where the old one may be gone."""
    for stored in scan(store).generations:
        place = store.parent / "restored"
        materialise(stored.commit, Sources(shared=store, patience_s=0), place)
        for name, wanted in world.contents[stored.generation].items():
            assert (place / stored.generation / name).read_bytes() == wanted, why


def test_death_before_each_call_of_drain_and_commit(world: World) -> None:
    """Killed at any call, then started again: old or new in between, new in the end."""
    captured = capture_new(world)
    pristine = world.root / "pristine"
    shutil.copytree(world.store, pristine)
    calls = 0
    finished = False
    while not finished:
        shutil.rmtree(world.store)
        shutil.copytree(pristine, world.store)
        finished = run_and_die(world.root, lambda: make_durable(world, captured), calls)
        offered = assert_old_or_new(world, world.store, f"death before call {calls}")
        assert OLD in offered
        make_durable(world, captured)
        assert assert_old_or_new(world, world.store, f"again after {calls}") == {OLD, NEW}
        calls += 1
    assert calls > 40


def test_death_before_each_call_of_capture(world: World) -> None:
    """A capture that was cut short has no manifest, or a right one; capturing again always works."""
    calls = 0
    finished = False
    scratch = world.scratch("n1")
    folder = scratch.generation(NEW)
    while not finished:
        shutil.rmtree(folder.root, ignore_errors=True)
        finished = run_and_die(world.root, lambda: world.capture("n1", 20, content(20)["n1"]), calls)
        path = folder.manifests / "n1.json"
        if path.exists():
            assert len(NodeManifest.from_bytes(path.read_bytes()).files) == 2
        part = world.capture("n1", 20, content(20)["n1"]) if not path.exists() else None
        assert part is None or len(part.manifest.files) == 2
        calls += 1
    assert calls > 10


def test_death_before_each_call_of_quarantine(world: World) -> None:
    """A generation is in the store or set aside, whole; never half here and half there."""
    make_durable(world, capture_new(world))
    pristine = world.root / "pristine"
    shutil.copytree(world.store, pristine)
    calls = 0
    finished = False
    while not finished:
        shutil.rmtree(world.store)
        shutil.copytree(pristine, world.store)
        finished = run_and_die(world.root, lambda: quarantine(world.store, NEW, "test", AT), calls)
        here = world.paths.generation(NEW).root
        there = world.paths.quarantine / NEW
        assert here.exists() != there.exists()
        assert len([path for path in (there if there.exists() else here).rglob("*") if path.is_file()]) == 6
        calls += 1
    assert calls > 3


def test_a_capture_that_finds_a_lying_manifest_says_so(world: World) -> None:
    """A manifest that does not fit the files is never handed out as theirs."""
    part = capture_new(world)["n1"]
    (part.folder / "m" / "n1.json").write_bytes(b"{}")
    with pytest.raises(DataDamaged):
        capture_new(world)
    assert capture.__doc__
