"""When a step is complete: which files belong to it, and which may still follow."""

from __future__ import annotations

from tests.checkpoint.watched import SETTLE_S, zip_bytes


def test_a_step_that_was_captured_is_not_captured_twice(watch) -> None:
    """A file that comes later, or again, is refused by name: the checkpoint's content is fixed."""
    watched = watch()
    watched.rename_in("step_5.pt")
    watched.scan()
    watched.rename_in("step_5.pt", b"other")
    assert "captured already" in watched.scan_for(0.5)[1]["step_5.pt"]


def test_a_step_that_could_not_be_captured_may_be_tried_again(watch) -> None:
    """After `forget` a changed file makes the step complete once more."""
    watched = watch()
    watched.rename_in("step_5.pt")
    watched.scan()
    watched.watcher.forget(5)
    watched.rename_in("step_5.pt", b"other")
    assert watched.scan_for(0.5)[0] == [5]


def test_every_local_rank_must_have_its_file(watch) -> None:
    """With {rank} a step is complete when each rank of this node has written, however long that takes."""
    watched = watch("step_{step}/rank_{rank}.pt")
    watched.watcher.expect([2, 3])
    watched.write("step_5/rank_2.pt")
    assert watched.scan_for(20 * SETTLE_S) == ([], {})
    watched.write("step_5/rank_3.pt")
    assert watched.scan_for(2 * SETTLE_S)[0] == [5]


def test_a_rank_that_never_wrote_leaves_the_step_out(watch) -> None:
    """A node that died in the middle of a save does not hand over half of its files."""
    watched = watch("step_{step}/rank_{rank}.pt", local_ranks=frozenset({0, 1}))
    watched.write("step_5/rank_0.pt")
    watched.scan_for(2 * SETTLE_S)
    found = watched.watcher.attempt_ended(watched.now)
    assert found.complete == ()
    assert "before its checkpoint was complete" in dict(found.refused)["step_5/rank_0.pt"]


def test_several_files_wait_for_each_other(watch) -> None:
    """Where more files may follow, the step is complete when nothing new came for the settle time."""
    watched = watch("step_*/*.bin")
    watched.write("step_5/keep.txt")
    watched.scan()
    watched.rename_in("step_5/a.bin")
    assert watched.scan_for(SETTLE_S - 0.5) == ([], {})
    watched.rename_in("step_5/b.bin")
    assert watched.scan_for(SETTLE_S - 0.5) == ([], {})
    assert watched.scan_for(2.0)[0] == [5]


def test_a_temporary_file_that_grows_holds_the_step_back(watch) -> None:
    """A second rank that is still writing to its temporary name is seen."""
    watched = watch("step_*/*.bin")
    watched.write("step_5/b.bin.tmp")
    watched.scan()
    watched.rename_in("step_5/a.bin")
    for size in range(10):
        watched.write("step_5/b.bin.tmp", b"x" * size)
        assert watched.scan_for(SETTLE_S - 0.5) == ([], {})
    (watched.folder / "step_5/b.bin.tmp").rename(watched.folder / "step_5/b.bin")
    assert watched.scan_for(2 * SETTLE_S)[0] == [5]


def test_fewer_files_than_last_time_are_waited_for_longer(watch) -> None:
    """A straggler is given ten settle times where an earlier step had more files."""
    watched = watch("step_*/*.bin")
    watched.write("step_5/a.bin")
    watched.write("step_5/b.bin")
    assert watched.scan_for(3 * SETTLE_S)[0] == [5]
    watched.write("step_6/a.bin")
    assert watched.scan_for(5 * SETTLE_S) == ([], {})
    assert watched.scan_for(8 * SETTLE_S)[0] == [6]


def test_one_refused_file_refuses_the_step_until_it_is_written_again(watch) -> None:
    """A step is whole or nothing; its sound files come back with the repaired one."""
    watched = watch("step_*/*.pt")
    watched.write("step_5/a.pt", zip_bytes())
    watched.write("step_5/b.pt", zip_bytes()[:-9])
    steps, refused = watched.scan_for(3 * SETTLE_S)
    assert (steps, set(refused)) == ([], {"step_5/a.pt", "step_5/b.pt"})
    watched.write("step_5/b.pt", zip_bytes())
    found = [each for _ in range(30) for each in watched.scan().complete]
    assert [[file.name for file in each.files] for each in found] == [["step_5/a.pt", "step_5/b.pt"]]


def test_a_new_file_of_a_refused_step_does_not_pass_alone(watch) -> None:
    """A latecomer cannot turn a refused step into a checkpoint of one file."""
    watched = watch("step_*/*.pt")
    watched.write("step_5/a.pt", zip_bytes()[:-9])
    watched.scan_for(3 * SETTLE_S)
    watched.rename_in("step_5/b.pt", zip_bytes())
    assert watched.scan_for(5 * SETTLE_S)[0] == []
