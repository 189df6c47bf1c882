from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftslurm.checkpoint.arrivals import Arrivals
from ftslurm.checkpoint.patterns import Marker, Patterns
from ftslurm.checkpoint.watch import ScanResult
from ftslurm.checkpoint.writers import Writers
from tests.checkpoint.watched import SETTLE_S, zip_bytes


def test_a_renamed_file_counts_at_once(watch) -> None:
    """A rename from a name that does not match is the program's word that the file is whole."""
    watched = watch()
    watched.rename_in("step_5.pt")
    found = watched.scan()
    assert [(each.step, [file.name for file in each.files]) for each in found.complete] == [(5, ["step_5.pt"])]
    assert watched.scan() == ScanResult()


def test_a_renamed_file_counts_also_when_its_writer_is_gone(watch) -> None:
    """What was renamed before the crash is whole."""
    watched = watch()
    watched.rename_in("step_5.pt")
    found = watched.watcher.attempt_ended(watched.now)
    assert [each.step for each in found.complete] == [5]


def test_a_rename_between_matching_names_proves_nothing(watch) -> None:
    """A half file under another matching name is still a half file: it must settle."""
    watched = watch()
    watched.write("step_4.pt").rename(watched.folder / "step_5.pt")
    assert watched.scan().pending == (5,)
    assert watched.scan_for(2 * SETTLE_S)[0] == [5]


def test_a_file_that_is_written_after_its_rename_must_settle(watch) -> None:
    """The rename's word is void once somebody writes again."""
    watched = watch()
    watched.rename_in("step_5.pt")
    with (watched.folder / "step_5.pt").open("ab") as file:
        file.write(b"more")
    assert watched.scan().pending == (5,)


def test_a_renamed_file_that_is_open_for_writing_waits(watch) -> None:
    """`rename` before `close` is a habit of some programs."""
    watched = watch()
    with (watched.folder / "x.tmp").open("wb") as file:
        file.write(b"half")
        file.flush()
        (watched.folder / "x.tmp").rename(watched.folder / "step_5.pt")
        assert watched.scan().pending == (5,)
    assert watched.scan_for(2 * SETTLE_S)[0] == [5]


def test_a_folder_that_is_renamed_in_counts_at_once(watch) -> None:
    """The Trainer's way: everything into tmp-checkpoint-5, then one rename."""
    watched = watch("checkpoint-{step}/*")
    watched.write("tmp-checkpoint-5/model.bin")
    watched.write("tmp-checkpoint-5/optimizer.bin")
    (watched.folder / "tmp-checkpoint-5").rename(watched.folder / "checkpoint-5")
    found = watched.scan()
    assert [[file.name for file in each.files] for each in found.complete] == [
        ["checkpoint-5/model.bin", "checkpoint-5/optimizer.bin"]
    ]


def test_the_settle_time_must_pass(watch) -> None:
    """A written file counts after the settle time, not before."""
    watched = watch()
    watched.write("step_5.pt")
    assert watched.scan_for(SETTLE_S)[0] == []
    assert watched.scan_for(1.0)[0] == [5]


def test_each_change_starts_the_settle_time_again(watch) -> None:
    """A writer that pauses for less than the settle time is never cut off."""
    watched = watch()
    for size in range(1, 5):
        watched.write("step_5.pt", b"x" * size)
        assert watched.scan_for(SETTLE_S - 0.5) == ([], {})
    assert watched.scan_for(1.5)[0] == [5]


def test_time_that_nobody_watched_does_not_count(watch) -> None:
    """After a freeze of the whole node, writer and watcher alike, nothing has settled."""
    watched = watch()
    watched.write("step_5.pt")
    watched.scan()
    assert watched.scan(after_s=3600.0).complete == ()
    assert watched.scan(after_s=3600.0).complete == ()


@pytest.mark.parametrize(
    "trouble",
    [
        Writers(alive=frozenset({1, 2}), stopped=frozenset({2})),
        Writers(alive=frozenset({1}), ranks_lost=1),
        Writers(alive=frozenset()),
    ],
)
def test_nothing_settles_while_writers_are_stopped_or_dead(watch, trouble: Writers) -> None:
    """A file that no longer grows may only have lost its writer."""
    watched = watch()
    watched.write("step_5.pt")
    assert watched.scan_for(10 * SETTLE_S, trouble) == ([], {})
    assert watched.scan_for(SETTLE_S - 0.5) == ([], {})
    assert watched.scan_for(1.5)[0] == [5]


def test_what_had_not_settled_when_the_attempt_ended_is_dropped(watch) -> None:
    """Candidates touched just before the end are refused, with the reason."""
    watched = watch()
    watched.write("step_5.pt")
    watched.scan_for(SETTLE_S - 1.0)
    found = watched.watcher.attempt_ended(watched.now + 0.5)
    assert found.complete == ()
    assert dict(found.refused) == {"step_5.pt": "no process of the attempt lives here"}
    assert watched.scan() == ScanResult()


def test_the_last_file_of_a_program_that_ended_well_counts(watch) -> None:
    """A final save right before exit code 0 is not lost."""
    watched = watch()
    watched.write("step_5.pt")
    watched.write("step_6.pt", zip_bytes()[:-50])
    watched.scan()
    found = watched.watcher.attempt_ended(watched.now + 0.1, clean=True)
    assert [each.step for each in found.complete] == [5]
    assert list(dict(found.refused)) == ["step_6.pt"]


def test_a_file_that_somebody_holds_open_does_not_settle(watch) -> None:
    """A writer may pause for longer than the settle time; it is not finished before it closes the file."""
    watched = watch()
    with (watched.folder / "step_5.pt").open("wb") as file:
        file.write(b"half")
        file.flush()
        assert watched.scan_for(5 * SETTLE_S) == ([], {})
    assert watched.scan_for(2 * SETTLE_S)[0] == [5]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (zip_bytes()[:50_000], "no directory at its end"),
        (zip_bytes()[:-1], "no directory at its end"),
        (zip_bytes() + b"more", "goes on after its directory"),
        (zip_bytes()[1000:], ""),
    ],
)
def test_an_unsound_file_is_refused_and_may_come_back(watch, content: bytes, said: str) -> None:
    """Structure decides where there is one; a file that is written again is judged again."""
    watched = watch()
    watched.write("step_5.pt", content)
    steps, refused = watched.scan_for(2 * SETTLE_S)
    if said:
        assert steps == []
        assert said in refused["step_5.pt"]
        watched.write("step_5.pt", zip_bytes())
        steps, refused = watched.scan_for(2 * SETTLE_S)
    assert (steps, refused) == ([5], {})


def test_only_a_zip_may_be_called_npz(watch) -> None:
    """Numpy's npz without a zip's start is cut off at the front."""
    watched = watch("step_*.npz")
    watched.write("step_5.npz", zip_bytes()[1000:])
    assert "step_5.npz" in watched.scan_for(2 * SETTLE_S)[1]


def test_with_a_marker_only_the_marker_counts(watch) -> None:
    """A configured marker beats rename and settling, and must not be older than the file."""
    watched = watch("step_*.pt", done_marker=Marker("{file}.done"))
    watched.rename_in("step_5.pt")
    assert watched.scan_for(5 * SETTLE_S) == ([], {})
    marker = watched.write("step_5.pt.done", b"")
    os.utime(marker, ns=(1, 1))
    assert watched.scan_for(SETTLE_S) == ([], {})
    os.utime(marker)
    assert watched.scan_for(0.5) == ([5], {})


def test_a_marker_inside_the_folder_is_no_part_of_the_checkpoint(watch) -> None:
    """`step_*/*` also matches the empty DONE, which would be refused."""
    watched = watch("step_*/*", done_marker=Marker("{folder}/DONE"))
    watched.write("step_5/model.bin")
    watched.write("step_5/DONE", b"")
    steps, refused = watched.scan_for(3 * SETTLE_S)
    assert (steps, refused) == ([5], {})


def test_what_lay_there_before_the_attempt_is_not_its_own(watch) -> None:
    """An earlier attempt's files count only when they are written again."""
    watched = watch()
    watched.write("step_5.pt")
    (watched.folder.parent / "attempts" / "0.json").unlink()
    later = watch()
    assert later.scan_for(2 * SETTLE_S) == ([], {})
    later.write("step_5.pt", b"written again")
    assert later.scan_for(2 * SETTLE_S)[0] == [5]


def test_an_agent_that_starts_again_still_knows_the_attempts_own_files(watch) -> None:
    """The baseline is that of the attempt's begin, not of the agent's."""
    watched = watch()
    watched.write("step_5.pt")
    watched.scan()
    assert watch().scan_for(2 * SETTLE_S)[0] == [5]


def test_links_are_not_followed(watch) -> None:
    """A link is neither read nor captured, and is refused once."""
    watched = watch()
    watched.write("real.bin")
    (watched.folder / "step_5.pt").symlink_to("real.bin")
    (watched.folder / "step_6.pt").mkdir()
    steps, refused = watched.scan_for(3 * SETTLE_S)
    assert (steps, list(refused)) == ([], ["step_5.pt"])


def test_a_name_that_cannot_be_kept_is_refused(watch) -> None:
    """Control characters and names that are not UTF-8 would not survive the manifest."""
    watched = watch("step_*")
    for name in (b"step_5\n", b"step_6\xff"):
        (watched.folder / os.fsdecode(name)).write_bytes(b"x")
    steps, refused = watched.scan_for(3 * SETTLE_S)
    assert (steps, len(refused)) == ([], 2)


def test_a_file_that_is_deleted_while_pending_is_gone(watch) -> None:
    """A program that removes its own half file leaves nothing pending."""
    watched = watch()
    path = watched.write("step_5.pt")
    assert watched.scan().pending == (5,)
    path.unlink()
    assert watched.scan() == ScanResult()


def test_without_inotify_files_must_settle(watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel reports nothing, listings find the files, and a rename is no proof."""
    monkeypatch.setattr("ftslurm.checkpoint.arrivals._start", lambda: None)
    watched = watch()
    watched.rename_in("step_5.pt")
    assert watched.scan_for(5.0)[0] == []
    assert watched.scan_for(2 * SETTLE_S)[0] == [5]


def test_a_folder_that_is_made_again_is_watched_again(watch) -> None:
    """A program may remove and create its folder."""
    watched = watch()
    watched.folder.rmdir()
    watched.scan_for(2.0)
    watched.folder.mkdir()
    watched.scan_for(10.0)
    watched.rename_in("step_5.pt")
    assert watched.scan_for(0.5)[0] == [5]


def test_an_overflow_of_the_kernels_queue_loses_no_file(watch, tmp_path: Path) -> None:
    """After lost reports the folder is listed; what came by rename has to settle then."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    watched = watch()
    for number in range(limit // 2 + 10):
        (watched.folder / f"step_x{number}").touch()
        (watched.folder / f"step_x{number}").unlink()
    watched.rename_in("step_5.pt")
    steps, _ = watched.scan_for(3 * SETTLE_S)
    assert steps == [5]


def test_other_files_in_the_folder_do_not_wake_it(watch) -> None:
    """A log file that is written all the time costs no listing."""
    watched = watch()
    arrivals = Arrivals(watched.folder, Patterns.parse("step_*.pt"))
    arrivals.watch("")
    watched.write("train.log")
    assert not arrivals.read().look
    watched.write("step_5.pt")
    assert arrivals.read().look
    arrivals.close()


def test_a_folder_that_is_renamed_away_is_followed_no_longer(watch) -> None:
    """What happens in it under its new name is not told under the old one."""
    watched = watch("step_{step}/*.bin")
    watched.write("step_5/a.bin")
    watched.scan()
    (watched.folder / "step_5").rename(watched.folder / "aside")
    watched.write("aside/b.bin.tmp").rename(watched.folder / "aside" / "b.bin")
    assert watched.scan_for(2 * SETTLE_S) == ([], {})
    watched.write("tmp5/c.bin")
    (watched.folder / "tmp5").rename(watched.folder / "step_5")
    found = watched.scan()
    assert [[file.name for file in each.files] for each in found.complete] == [["step_5/c.bin"]]
