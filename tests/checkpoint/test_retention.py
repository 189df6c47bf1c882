from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection
from pathlib import Path

import pytest

from ftslurm.checkpoint import retention, versions
from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.retention import apply, carry_out, clean_scratch, foresee
from ftslurm.checkpoint.store import read_latest, scan
from ftslurm.core.manifest import generation_name
from ftslurm.core.retention import Rules
from ftslurm.errors import DataDamaged, StorageError, TryAgain
from tests.checkpoint.world import AT, RUN, World


def keep_last(root: Path, count: int, protected: Collection[str] = ()) -> tuple[str, ...]:
    """Apply the rule that every run has."""
    return apply(root, Rules(last=count), protected, now=AT)


def save(world: World, *steps: int, attempt: int = 0) -> list[str]:
    """A durable generation of one small file for each step."""
    return [world.save(step, {"n1": {f"step_{step}.pt": str(step).encode()}}, attempt) for step in steps]


def durable(world: World) -> list[str]:
    """What the store offers."""
    return [each.generation for each in scan(world.store).generations]


def test_the_newest_stay(world: World) -> None:
    """keep_last counts by number: step 1,000,000,000 is newer than 999,999,999."""
    names = save(world, 2, 10, 999_999_999, 1_000_000_000)
    assert keep_last(world.store, 2) == tuple(names[:2])
    assert durable(world) == names[2:]
    assert not list(world.paths.trash.iterdir())
    assert keep_last(world.store, 2) == ()


def test_what_is_foreseen_is_carried_out_and_counted(world: World) -> None:
    """One after the other, each with what was done before it."""
    names, heard = save(world, 1, 2, 3), list[tuple[int, int]]()
    doomed = foresee(world.store, Rules(last=1), (), AT).go
    assert carry_out(world.store, doomed, count=lambda *done: heard.append(done)) == doomed == tuple(names[:2])
    assert heard == [(0, 2), (1, 2)]
    assert durable(world) == names[2:]


@pytest.mark.parametrize("count", [0, -5, 1])
def test_the_newest_durable_one_is_never_deleted(world: World, count: int) -> None:
    """Not even when nothing is to be kept."""
    names = save(world, 1, 2)
    keep_last(world.store, count)
    assert durable(world) == names[1:]


def test_protected_generations_stay(world: World) -> None:
    """What is being restored or drained is not pulled away."""
    names = save(world, 1, 2, 3, 4)
    assert keep_last(world.store, 1, {names[0]}) == (names[1], names[2])
    assert durable(world) == [names[0], names[3]]


def test_generations_on_their_way_do_not_count_and_old_ones_are_swept(world: World) -> None:
    """An unfinished generation newer than the newest durable one stays; an older one is garbage, unless protected."""
    save(world, 20, 30)
    for step in (10, 25, 40):
        part = world.capture("n1", step, {f"step_{step}.pt": b"x"})
        assert drain_part(part.folder, "n1", Target(destination=str(world.store))).ok
    assert keep_last(world.store, 2, {generation_name(25, 0)}) == (generation_name(10, 0),)
    assert {path.name for path in world.paths.generations.iterdir()} == {
        generation_name(n, 0) for n in (20, 25, 30, 40)
    }


def test_a_damaged_commit_is_left_for_quarantine(world: World) -> None:
    """Nothing that is damaged is deleted."""
    names = save(world, 1, 2, 3)
    world.paths.generation(names[0]).commit.write_bytes(b"{}")
    assert keep_last(world.store, 1) == (names[1],)
    assert world.paths.generation(names[0]).root.is_dir()


def test_a_deletion_that_was_cut_short_is_finished(world: World) -> None:
    """A generation without its COMMIT, or already in the trash, goes the next time."""
    names = save(world, 1, 2, 3, 4)
    world.paths.generation(names[0]).commit.unlink()
    world.paths.generation(names[1]).root.rename(world.paths.trash / names[1])
    assert keep_last(world.store, 2) == (names[0],)
    assert not list(world.paths.trash.iterdir())
    assert durable(world) == names[2:]


def test_an_empty_store_keeps_quiet(world: World) -> None:
    """Before the first checkpoint there is nothing to delete."""
    prepare_store(world.store, RUN, AT)
    assert keep_last(world.store, 3) == ()


def test_foreign_things_in_the_store_are_not_touched(world: World) -> None:
    """Only what has a generation's name is considered."""
    save(world, 1, 2)
    (world.paths.generations / "notes").mkdir()
    keep_last(world.store, 1)
    assert (world.paths.generations / "notes").is_dir()


def test_tagged_generations_stay(world: World) -> None:
    """A tag keeps its generation until it is taken away; what is foreseen is what is done."""
    names = save(world, 1, 2, 3, 4)
    versions.tag(world.store, "good", "2", AT)
    seen = foresee(world.store, Rules(last=1), (), AT)
    assert seen.go == (names[0], names[2])
    assert seen.stay == {names[1]: "tagged good", names[3]: "the newest"}
    assert seen.freed_bytes == 2
    assert keep_last(world.store, 1) == seen.go
    versions.untag(world.store, "good")
    assert keep_last(world.store, 1) == (names[1],)


def test_what_is_tagged_meanwhile_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag that is set while others are being deleted is in time for those that still stand."""
    names = save(world, 1, 2, 3, 4)
    real = retention.delete

    def delete(paths: StorePaths, name: str) -> None:
        real(paths, name)
        versions.tag(world.store, "late", "2", AT)

    monkeypatch.setattr(retention, "delete", delete)
    assert keep_last(world.store, 1) == (names[0], names[2])
    assert durable(world) == [names[1], names[3]]


def test_a_damaged_tag_stops_all_deleting(world: World) -> None:
    """Nobody knows what it protects; `latest` and `best` can be made again and stop nothing."""
    names = save(world, 1, 2)
    versions.tag(world.store, "good", "1", AT)
    (world.paths.references / "good").write_bytes(b"{}")
    with pytest.raises(DataDamaged, match="the tag good cannot be used"):
        keep_last(world.store, 1)
    versions.untag(world.store, "good")
    (world.paths.references / "latest").write_bytes(b"{}")
    assert keep_last(world.store, 1) == (names[0],)


def test_an_abandoned_branch_is_left_alone_and_counts_for_nothing(world: World) -> None:
    """After a rollback the last n are those of the new branch; the abandoned ones go only when that is asked for."""
    names = save(world, 10, 20, 30)
    target = versions.find(world.store, "10")
    versions.roll_back(world.store, target, attempt=0, now=AT)
    new = save(world, 11, 12, 13, attempt=1)
    assert keep_last(world.store, 2) == (names[0], new[0])
    assert durable(world) == new[1:]
    assert apply(world.store, Rules(last=2, abandoned=False), now=AT) == tuple(names[1:])


# ------------------------------------------------------------------------------------------------------------- commits


def test_a_commit_may_be_repeated_but_not_changed(world: World) -> None:
    """A supervisor that died after the rename writes the same commit again; another content is refused."""
    prepare_store(world.store, RUN, AT)
    part = world.capture("n1", 1, {"step_1.pt": b"x"})
    drain_part(part.folder, "n1", Target(destination=str(world.store)))
    commit = world.commit(1, {"n1": part})
    digest = commit_durable(world.store, commit, patience_s=0)
    before = world.paths.generation(commit.generation).commit.stat().st_ino
    assert commit_durable(world.store, commit, patience_s=0) == digest
    assert world.paths.generation(commit.generation).commit.stat().st_ino == before
    other = world.commit(1, {"n1": part, "n2": part})
    with pytest.raises(DataDamaged, match="other parts"):
        commit_durable(world.store, other, patience_s=0)


def test_a_commit_waits_for_what_another_host_wrote(world: World) -> None:
    """A manifest that cannot be seen yet is looked for until patience is over."""
    prepare_store(world.store, RUN, AT)
    part = world.capture("n1", 1, {"step_1.pt": b"x"})
    target = Target(destination=str(world.store))
    threading.Timer(0.6, lambda: drain_part(part.folder, "n1", target)).start()
    commit_durable(world.store, world.commit(1, {"n1": part}), patience_s=60)
    assert durable(world) == [generation_name(1, 0)]


def test_a_waiting_commit_can_be_stopped(world: World) -> None:
    """A supervisor that ends does not wait for a minute."""
    prepare_store(world.store, RUN, AT)
    part = world.capture("n1", 1, {"step_1.pt": b"x"})
    stop = threading.Event()
    stop.set()
    with pytest.raises(TryAgain):
        commit_durable(world.store, world.commit(1, {"n1": part}), patience_s=60, stop=stop)


def test_wrong_sizes_on_shared_storage_make_no_commit(world: World) -> None:
    """A file that is shorter there than its manifest says stops the commit."""
    prepare_store(world.store, RUN, AT)
    part = world.capture("n1", 1, {"step_1.pt": b"content"})
    drain_part(part.folder, "n1", Target(destination=str(world.store)))
    os.truncate(world.paths.generation(generation_name(1, 0)).data / "step_1.pt", 3)
    with pytest.raises(DataDamaged, match="3 bytes, should have 7"):
        commit_durable(world.store, world.commit(1, {"n1": part}), patience_s=0)
    assert durable(world) == []


def test_latest_never_goes_back(world: World) -> None:
    """A late commit of an older generation does not move the reference."""
    prepare_store(world.store, RUN, AT)
    save(world, 5)
    save(world, 3)
    assert read_latest(world.store) == generation_name(5, 0)
    assert json.loads(world.paths.run_file.read_bytes())["run_id"] == RUN


def test_a_store_that_cannot_be_written_is_one_error(world: World) -> None:
    """Read-only or missing storage ends in StorageError."""
    world.root.joinpath("shared").write_bytes(b"a file")
    with pytest.raises(StorageError):
        prepare_store(world.store, RUN, AT)


# ------------------------------------------------------------------------------------------------------------- scratch


def test_scratch_keeps_the_newest_and_what_is_above_the_watermark(world: World) -> None:
    """Generations at or below the watermark go, with the program's own files of them; the newest two stay."""
    for step in (1, 2, 3, 4, 5):
        world.capture("n1", step, {f"step_{step}/a.pt": b"x", f"top_{step}.pt": b"y"})
    scratch = world.scratch("n1")
    assert clean_scratch(scratch, generation_name(4, 0)) == tuple(generation_name(step, 0) for step in (1, 2, 3))
    left = sorted(str(path.relative_to(scratch.write)) for path in scratch.write.rglob("*"))
    assert left == ["step_4", "step_4/a.pt", "step_5", "step_5/a.pt", "top_4.pt", "top_5.pt"]
    assert clean_scratch(scratch, generation_name(4, 0)) == ()
    assert clean_scratch(scratch, generation_name(0, 0), keep=0) == ()


def test_a_file_that_is_not_what_was_captured_stays(world: World) -> None:
    """Rewritten, replaced or never captured: it is the program's, and nothing else knows its content."""
    scratch = world.scratch("n1")
    for step in (1, 2, 3):
        world.capture("n1", step, {f"step_{step}.pt": b"captured"})
    (scratch.write / "step_1.pt").write_bytes(b"rewrites")
    (scratch.write / "step_2.pt").unlink()
    (scratch.write / "step_2.pt").write_bytes(b"replaced")
    (scratch.write / "step_3.pt").unlink()
    (scratch.write / "step_3.pt").write_bytes(b"captured")
    (scratch.write / "never.pt").write_bytes(b"unknown")
    clean_scratch(scratch, generation_name(9, 0), keep=0)
    assert sorted(path.name for path in scratch.write.iterdir()) == ["never.pt", "step_1.pt", "step_2.pt"]
    assert not list(scratch.generations.iterdir())


def test_a_torn_capture_is_cleaned_without_touching_the_programs_files(world: World) -> None:
    """Without a manifest nothing says what the files should be."""
    scratch = world.scratch("n1")
    world.capture("n1", 1, {"step_1.pt": b"x"})
    (scratch.generation(generation_name(1, 0)).manifests / "n1.json").unlink()
    assert clean_scratch(scratch, generation_name(1, 0), keep=0) == (generation_name(1, 0),)
    assert (scratch.write / "step_1.pt").exists()


def test_a_watermark_must_be_a_generation(world: World) -> None:
    """A text that is none would delete by accident."""
    with pytest.raises(DataDamaged):
        clean_scratch(world.scratch("n1"), "latest")
