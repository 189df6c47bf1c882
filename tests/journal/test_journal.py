from __future__ import annotations

import errno
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ftslurm import journal
from ftslurm.core.events import AgentUp, AllocationGranted
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.errors import DataDamaged, StorageError
from ftslurm.journal import Entry, Writer, parse_line, read, replay, unshared
from ftslurm.paths import RunPaths
from tests.core.story import play
from tests.core.test_scenarios import FOLDER
from tests.journal.waiting import WAIT_S, wait_until


def entries_of(count: int, epoch: int = 1, first: int = 0) -> list[Entry]:
    """Entries that can be told apart."""
    events = [
        AgentUp(node=f"n{number}-{epoch}", address="ü\n\ud800", port=number) for number in range(first, first + count)
    ]
    return [Entry(first + index, epoch, 1.5, "training", event, ()) for index, event in enumerate(events)]


def write(path: Path, entries: list[Entry], tail: bytes = b"") -> None:
    """Leave a journal as a writer would have, with a tail that it would not."""
    path.write_bytes(b"".join((entry.line() + "\n").encode() for entry in entries) + tail)


# ------------------------------------------------------------------------------------------------------------ reading


def test_story_is_read_back_as_it_was_written(paths, copy):
    """A whole run, through the writer and the reader, replays to the state it ended in; the copy holds the same."""
    story, _ = play((FOLDER / "lost_in_relaunch.txt").read_text())
    writer = Writer(paths, 1, copy)
    done = [writer.append(entry) for entry in story.entries]
    assert writer.close(WAIT_S)
    assert all(each.is_set() for each in done)
    assert list(read(paths)) == story.entries
    assert paths.journal(1).read_bytes() == copy.read_bytes()
    assert replay(read(paths), story.policy) == (story.run, len(story.entries))
    assert paths.journal(1).stat().st_mode & 0o777 == 0o600


def test_nothing_written_is_a_fresh_run(paths, copy):
    """No journal, no copy: a run that has not begun."""
    assert list(read(paths, copy)) == []
    assert replay([], Policy()) == (Run(), 0)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_torn_last_line_is_legal(paths, cut):
    """A writer that died in the middle of a line has not written it: its actions were never performed."""
    entries = entries_of(3)
    write(paths.journal(1), entries)
    data = paths.journal(1).read_bytes()
    paths.journal(1).write_bytes(data[:-cut])
    assert list(read(paths)) == entries[:2]


@pytest.mark.parametrize(
    "bad",
    [
        b"{torn\n",
        b"\n",
        b"5\n",
        b"null\n",
        b"\xff\xfe\n",
        b"\0\0\0\0\n",
        b'{"n":1,"epoch":1,"t":0,"phase":"training","event":{"type":"Later"},"actions":[]}\n',
        b'{"n":1,"epoch":1,"t":0,"phase":"training","event":[],"actions":[]}\n',
        b'{"n":1,"epoch":1,"t":0,"phase":"training","event":{"type":"StorageStalled","for_s":1},"actions":5}\n',
        b'{"n":"one","epoch":1,"t":0,"phase":"training","event":{},"actions":[]}\n',
    ],
)
def test_damaged_line_is_no_torn_one(paths, bad):
    """Any other line that cannot be read stops everything, and says where it is."""
    write(paths.journal(1), entries_of(1), bad)
    with pytest.raises(DataDamaged, match=r"journal\.1\.jsonl, line 2: "):
        list(read(paths))


def test_missing_entries_are_damage(paths):
    """What follows from the rest is not what was decided: attempt numbers could be used twice."""
    entries = entries_of(4)
    write(paths.journal(1), [*entries[:2], entries[3]])
    with pytest.raises(DataDamaged, match="no entry 2, but an entry 3"):
        replay(read(paths), Policy())


def test_copy_may_be_ahead_of_shared_storage(paths, copy):
    """A supervisor that is started again on the same host goes on from its own copy."""
    entries = entries_of(5)
    write(paths.journal(1), entries[:2], entries[2].line().encode()[:30])
    write(copy, entries, b"{tor")
    assert list(read(paths, copy)) == entries
    assert list(unshared(paths, entries)) == entries[2:]


def test_what_only_the_copy_holds_is_carried_to_shared_storage(paths, copy, tmp_path):
    """The next supervisor writes it down first, so that one on another host can go on too."""
    entries = entries_of(5)
    write(paths.journal(1), entries[:2])
    write(copy, entries)
    known = list(read(paths, copy))
    writer = Writer(paths, 2, tmp_path / "copy2.jsonl")
    new = entries_of(1, epoch=2, first=5)
    for entry in [*unshared(paths, known), *new]:
        writer.append(entry)
    assert writer.close(WAIT_S)
    assert list(read(paths)) == [*entries, *new]
    assert list(unshared(paths, read(paths))) == []


def test_later_epoch_counts(paths):
    """Two epochs wrote the same numbers: the earlier writer had lost the run, also where it wrote more."""
    write(paths.journal(9), entries_of(6, epoch=9))
    write(paths.journal(10), entries_of(2, epoch=10, first=3))
    (paths.root / "journal.x.jsonl").write_text("not a journal")
    found = list(read(paths))
    assert [(entry.number, entry.epoch) for entry in found] == [(0, 9), (1, 9), (2, 9), (3, 10), (4, 10)]


def test_unreadable_journal_is_storage_trouble(paths):
    """A journal that cannot be read is not taken for an empty one."""
    paths.journal(1).mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        list(read(paths))


def test_line_is_one_line_of_ascii():
    """Whatever is in an event, a line stays a line."""
    entry = entries_of(1)[0]
    line = entry.line()
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert parse_line(line) == entry


def test_replay_takes_the_decisions_again(paths):
    """The state comes from the events alone; recorded actions are not looked at."""
    granted = AllocationGranted(job_id="1", restart=0, nodes=("n1",), batch_host="n1", epoch=1, no_kill=True)
    run, _ = advance(Run(), granted, Policy())
    entry = Entry(0, 1, 0.0, "starting", granted, ())
    assert replay([entry], Policy()) == (run, 1)


# ------------------------------------------------------------------------------------------------------ hostile storage


def big(number: int) -> Entry:
    """An entry of nine thousand bytes."""
    event = AgentUp(node="n" * 9000, address="a", port=number)
    return Entry(number, 1, 1.5, "training", event, ())


def test_full_storage_loses_nothing(small_disk, copy):
    """Entries wait while shared storage is full, and are all there, whole and in order, when there is room again."""
    paths = RunPaths(small_disk)
    (small_disk / "ballast").write_bytes(b"x" * 30_000)
    writer = Writer(paths, 1, copy)
    done = [writer.append(big(number)) for number in range(6)]
    wait_until(lambda: writer.error, "the full disk was not noticed")
    assert "No space left" in writer.error
    assert not done[-1].is_set()
    assert [entry.number for entry in read(paths, copy)] == list(range(6))
    (small_disk / "ballast").unlink()
    wait_until(done[-1].is_set, "the entries were not written when there was room again")
    assert writer.close(WAIT_S)
    assert writer.error == ""
    assert list(read(paths)) == [big(number) for number in range(6)]
    assert paths.journal(1).read_bytes().count(b"\n") == 6


def test_partial_line_is_cut_off(small_disk):
    """What fitted of a line does not stay in the middle of the file."""
    path = small_disk / "journal.1.jsonl"
    appender = journal._Appender(path, durable=True)
    line = b"y" * 40_000 + b"\n"
    appender.append(line)
    with pytest.raises(OSError, match="No space left"):
        appender.append(line)
    assert path.stat().st_size > len(line)
    appender.append(b"short\n")
    assert path.read_bytes() == line + b"short\n"


def test_full_node_does_not_stop_the_run(paths, small_disk):
    """The copy on the writer's own node is worth having, but not needed; it has no torn line in the middle."""
    (small_disk / "ballast").write_bytes(b"x" * 30_000)
    copy = small_disk / "copy.jsonl"
    writer = Writer(paths, 1, copy)
    for number in range(6):
        writer.append(big(number))
    assert "No space left" in writer.local_error
    (small_disk / "ballast").unlink()
    writer.append(entries_of(1, first=6)[0])
    assert writer.local_error == ""
    assert writer.close(WAIT_S)
    assert [entry.number for entry in read(paths)] == list(range(7))
    assert [entry.number for entry in read(paths, copy)] == list(range(7))


def test_error_of_the_device_loses_nothing(paths, copy, monkeypatch):
    """EIO at fsync, and at the clean-up after it: the line is written again, once."""
    real_fsync, real_truncate, trouble = os.fsync, os.ftruncate, threading.Event()
    trouble.set()

    def fsync(handle):
        if trouble.is_set():
            raise OSError(errno.EIO, "Input/output error")
        real_fsync(handle)

    def ftruncate(handle, length):
        if trouble.is_set():
            raise OSError(errno.EIO, "Input/output error")
        real_truncate(handle, length)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "ftruncate", ftruncate)
    entries = entries_of(3)
    writer = Writer(paths, 1, copy)
    done = [writer.append(entry) for entry in entries]
    wait_until(lambda: writer.behind_s() > 0.1, "the error was not noticed")
    assert "Input/output error" in writer.error
    assert not any(each.is_set() for each in done)
    trouble.clear()
    wait_until(done[-1].is_set, "the entries were not written after the trouble")
    assert writer.close(WAIT_S)
    assert writer.behind_s() == 0.0
    assert paths.journal(1).read_bytes().decode().splitlines() == [entry.line() for entry in entries]


def test_hanging_storage_does_not_hold_up_the_writer(paths, copy):
    """Shared storage that does not answer at all costs no time in `append`, and is seen in `behind_s`."""
    os.mkfifo(paths.journal(1))  # opening a FIFO for writing waits for a reader, as a hanging server would let us wait
    writer = Writer(paths, 1, copy)
    done = writer.append(entries_of(1)[0])
    wait_until(lambda: writer.behind_s() > 0.05, "nothing waits")
    assert not done.is_set()
    assert not writer.close(0.05)
    assert list(read(RunPaths(copy.parent), copy)) == entries_of(1)
    reader = os.open(paths.journal(1), os.O_RDONLY | os.O_NONBLOCK)
    paths.journal(1).unlink()
    wait_until(done.is_set, "the entry was not written when storage answered again")
    os.close(reader)
    assert list(read(paths)) == entries_of(1)


def test_link_in_the_journals_place_is_not_followed(paths, copy, tmp_path):
    """The journal is written to the run's folder, wherever a link points."""
    target = tmp_path / "elsewhere"
    paths.journal(1).symlink_to(target)
    writer = Writer(paths, 1, copy)
    done = writer.append(entries_of(1)[0])
    wait_until(lambda: writer.error, "the link was followed")
    assert not target.exists()
    paths.journal(1).unlink()
    wait_until(done.is_set, "the entry was not written in the link's place")
    assert writer.close(WAIT_S)


def test_entry_times_are_short(paths):
    """Times are written to a tenth of a millisecond: nobody decides by them, everybody reads them."""
    entry = replace(entries_of(1)[0], t=1.7e9 + 0.123456789)
    assert json.loads(entry.line())["t"] == round(1.7e9 + 0.123456789, 4)
