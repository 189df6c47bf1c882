from __future__ import annotations

import json
import multiprocessing
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm import ledger
from ftslurm.core.lemons import Evidence, Forgiveness, Mark
from ftslurm.errors import CannotCreate, SiteForbids, StorageError

MARK = Mark(node="n3", at=1000.0, cause="node_down", evidence=Evidence.HARD, run="r", job="7", reason="gone")
EACH = 40


def write_many(folder: Path, number: int) -> None:
    """One writer of several: marks of its own, one after the other."""
    writer = ledger.Writer(folder, f"run-{number}")
    for count in range(EACH):
        writer.mark(Mark(node=f"n{number}", at=float(count), cause="node_down", reason="x" * 900))


def test_what_was_written_is_read(tmp_path):
    """Marks, forgiveness and waits come back as they were; a ledger that is not there is empty."""
    folder = tmp_path / "deep" / "ledger"
    assert ledger.read(folder) == ledger.Contents()
    writer = ledger.Writer(folder, "gpt small/1")
    wait = ledger.Wait(at=5.0, wait_s=60.0, partition="main", nodes=4)
    writer.mark(MARK)
    writer.wait(wait)
    forgiven = ledger.forgive(folder, "n3", "DIMM replaced", "alice")
    found = ledger.read(folder)
    assert (found.marks, found.forgiven, found.waits, found.unread) == ([MARK], [forgiven], [wait], 0)
    assert forgiven == Forgiveness(node="n3", at=forgiven.at, reason="DIMM replaced", by="alice")


def test_a_private_ledger_stays_private(tmp_path):
    """Folder 0700, files 0600."""
    folder = tmp_path / "ledger"
    ledger.Writer(folder, "r").mark(MARK)
    (file,) = folder.iterdir()
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(file.stat().st_mode)) == (0o700, 0o600)


def test_a_groups_ledger_is_readable_for_the_group(tmp_path):
    """Made group-writable on purpose, its files can be read by the group; open to everybody it is refused."""
    folder = tmp_path / "ledger"
    folder.mkdir()
    folder.chmod(0o2770)
    ledger.Writer(folder, "r").mark(MARK)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    folder.chmod(0o777)
    with pytest.raises(SiteForbids, match="everybody can write"):
        ledger.Writer(folder, "r").mark(MARK)


def test_several_writers_at_once_lose_nothing(tmp_path):
    """Every process has a file of its own, and a reader in between sees whole records."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path / "ledger", number)) for number in range(6)]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + 60
    while any(writer.is_alive() for writer in writers) and time.monotonic() < deadline:
        assert all(len(mark.reason) == 900 for mark in ledger.read(tmp_path / "ledger").marks)
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    found = ledger.read(tmp_path / "ledger")
    assert found.unread == 0
    assert {(mark.node, mark.at) for mark in found.marks} == {
        (f"n{number}", float(count)) for number in range(6) for count in range(EACH)
    }
    assert len(list((tmp_path / "ledger").iterdir())) == 6


@given(st.data())
def test_a_torn_file_loses_one_record_at_most(tmp_path_factory, data):
    """Cut at any byte, all whole lines are read; a writer that goes on loses nothing of its own."""
    folder = tmp_path_factory.mktemp("ledger")
    writer = ledger.Writer(folder, "r")
    for number in range(3):
        writer.mark(Mark(node=f"n{number}", at=float(number), cause="node_down"))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    os.truncate(file, cut)
    left = [f"n{number}" for number in range(whole[:cut].count(b"\n"))]
    if whole[cut : cut + 1] == b"\n":  # the line is whole but for its end
        left.append(f"n{len(left)}")
    writer.mark(MARK)
    found = ledger.read(folder)
    assert [mark.node for mark in found.marks] == [*left, "n3"]
    assert found.unread <= 1


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[1]",
        '"mark"',
        "{",
        '{"v":1,"kind":"mark","t":1}',
        '{"v":2,"kind":"mark","t":1,"node":"n1","cause":"x","evidence":"hard","weight":1}',
        '{"v":1,"kind":"mark","t":1,"node":"n1; rm","cause":"x","evidence":"hard","weight":1}',
        '{"v":1,"kind":"mark","t":1,"node":["n1"],"cause":"x","evidence":"hard","weight":1}',
        '{"v":1,"kind":"mark","t":1,"node":"n1","cause":"x","evidence":"hard","weight":99}',
        '{"v":1,"kind":"mark","t":1,"node":"n1","cause":"x","evidence":"felt","weight":1}',
        '{"v":1,"kind":"mark","t":"now","node":"n1","cause":"x","evidence":"hard","weight":1}',
        '{"v":1,"kind":"praise","t":1,"node":"n1"}',
        '{"v":1,"kind":"wait","t":1,"wait_s":"long","partition":"p","nodes":1}',
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ],
)
def test_what_cannot_be_read_is_passed_over(tmp_path, line):
    """A line of a newer release, or of anybody, changes nothing and is counted."""
    (tmp_path / "other.jsonl").write_text(f"{line}\n", encoding="utf-8")
    ledger.Writer(tmp_path, "r").mark(MARK)
    found = ledger.read(tmp_path)
    assert found.marks == [MARK]
    assert found.unread == bool(line)


def test_links_and_folders_are_no_ledger_files(tmp_path):
    """Nothing outside the folder is read, and nothing that could hang."""
    (tmp_path / "secret").write_text(json.dumps({"v": 1}))
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "secret")
    (tmp_path / "b.jsonl").mkdir()
    os.mkfifo(tmp_path / "c.jsonl")
    found = ledger.read(tmp_path)
    assert (found.marks, found.unread) == ([], 2)


def test_a_ledger_that_cannot_be_is_an_error_with_its_place(tmp_path):
    """A file where the folder should be: both sides say so."""
    (tmp_path / "ledger").write_text("")
    with pytest.raises(StorageError, match="cannot read the node ledger"):
        ledger.read(tmp_path / "ledger")
    with pytest.raises(CannotCreate, match="ledger"):
        ledger.Writer(tmp_path / "ledger", "r").mark(MARK)
