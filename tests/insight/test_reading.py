from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm import journal
from ftslurm.errors import DataDamaged
from ftslurm.insight import codec, remembered
from ftslurm.insight.reading import Reading, stamp
from ftslurm.insight.remembered import Cache, Disk
from ftslurm.insight.summary import Summary, summarise
from ftslurm.paths import RunPaths
from tests.insight.journals import Tale


def long_tale() -> Tale:
    """A run with everything that a summary remembers: an incident, a requeue, another job, an end."""
    tale = Tale().start().save(100, after=10).save(200, after=10)
    tale.lose("n3").launched().save(300, durable=False, after=10)
    tale.silent("n2")
    tale.stop("time_limit").requeued()
    tale.start(after=60.0).save(400, after=10)
    return tale.crash(1).launched()


LINES = [entry.line() for entry in long_tale().entries]
EPOCHS = [entry.epoch for entry in long_tale().entries]


def in_one_go(paths: RunPaths) -> Summary:
    """Where the run stands, from the whole journal."""
    return summarise(journal.read(paths))


def append(paths: RunPaths, number: int, end: str = "\n") -> None:
    """Write the entry of this number, or what there is of it so far."""
    with paths.journal(EPOCHS[number]).open("a") as file:
        file.write(LINES[number] + end)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 12), max_size=6), st.booleans())
def test_reading_on_is_the_same_as_reading_all(tmp_path_factory, pieces, stored):
    """However a journal grows, what was read piece by piece, also over a file in between, is what it says as a whole."""
    paths = RunPaths(tmp_path_factory.mktemp("run"))
    mine, number = Reading(), 0
    for piece in [*pieces, len(LINES)]:
        for _ in range(min(piece, len(LINES) - number)):
            append(paths, number)
            number += 1
        assert mine.catch_up(paths) == in_one_go(paths)
        if stored:
            mine = codec.build(Reading, json.loads(json.dumps(codec.plain(mine))))


def test_half_a_line_is_read_when_it_is_whole(tmp_path):
    """What is being written counts when its newline is there."""
    paths, mine = RunPaths(tmp_path), Reading()
    for number in range(5):
        append(paths, number)
    with paths.journal(1).open("a") as file:
        file.write(LINES[5][:40])
    assert mine.catch_up(paths).entries == 5
    with paths.journal(1).open("a") as file:
        file.write(LINES[5][40:] + "\n")
    assert mine.catch_up(paths) == in_one_go(paths)
    assert mine.catch_up(paths).entries == 6


@pytest.mark.parametrize("change", ["shorter", "other", "gone", "fenced", "again"])
def test_a_journal_that_has_not_just_grown_is_read_anew(tmp_path, change):
    """A file that is shorter, other or gone, and numbers that are written twice, are taken as `journal.read` takes them."""
    paths, mine = RunPaths(tmp_path), Reading()
    for number in range(20):
        append(paths, number)
    mine.catch_up(paths)
    path = paths.journal(1)
    text = path.read_text()
    if change == "shorter":
        path.write_text("".join(f"{line}\n" for line in LINES[:7]))
    elif change == "other":
        head, last = text[:-1].rsplit("\n", 1)
        path.write_text(head + "\n" + last.replace('"t":17', '"t":18') + "\n")
    elif change == "gone":
        path.unlink()
    elif change == "fenced":
        paths.journal(2).write_text("".join(f"{line}\n" for line in LINES[15:18]).replace('"epoch":1', '"epoch":2'))
    else:
        path.write_text(text + LINES[19] + "\n")
    assert mine.catch_up(paths) == in_one_go(paths)
    assert mine.catch_up(paths) == in_one_go(paths)


def test_damage_is_said_each_time_and_healed_when_it_is_gone(tmp_path):
    """A damaged line names its file and number, however often it is read, and nothing of it stays."""
    paths, mine = RunPaths(tmp_path), Reading()
    for number in range(5):
        append(paths, number)
    mine.catch_up(paths)
    good = paths.journal(1).read_text()
    paths.journal(1).write_text(good + "no entry\n")
    for _ in range(2):
        with pytest.raises(DataDamaged, match=r"journal\.1\.jsonl, line 6"):
            mine.catch_up(paths)
    paths.journal(1).write_text(good)
    assert mine.catch_up(paths) == in_one_go(paths)


# ---------------------------------------------------------------------------------------------------- remembered


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """Give a run with a long story."""
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    long_tale().write(paths)
    return paths


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the lines that are read of journals."""
    lines: list[str] = []
    parse = journal.parse_line
    monkeypatch.setattr(journal, "parse_line", lambda line: (lines.append(line), parse(line))[1])
    return lines


def kept(run: RunPaths, folder: Path) -> Summary:
    """What a command finds, and keeps."""
    cache = Cache(Disk(folder))
    found = cache.of(run)
    cache.keep()
    return found


def test_what_was_read_is_not_read_again(run, reads, tmp_path):
    """The next command takes an unchanged run from the file, whole, and a changed one from its journal."""
    first = kept(run, tmp_path / "cache")
    reads.clear()
    assert kept(run, tmp_path / "cache") == first == in_one_go(run)
    reads.clear()
    kept(run, tmp_path / "cache")
    assert reads == []
    tale = long_tale().save(500, after=10)
    tale.write(run)
    assert kept(run, tmp_path / "cache").entries == first.entries + len(tale.entries) - len(LINES)
    assert reads


def test_of_a_long_journal_only_what_is_new_is_read(run, reads, tmp_path, monkeypatch):
    """A run that goes on for weeks costs each command its newest lines."""
    monkeypatch.setattr(remembered, "LONG_BYTES", 1000)
    kept(run, tmp_path / "cache")
    reads.clear()
    tale = long_tale()
    tale.save(500, after=10).write(run)
    assert kept(run, tmp_path / "cache").newest.step == 500
    assert len(reads) == len(tale.entries) - len(LINES)
    assert kept(run, tmp_path / "cache") == in_one_go(run)


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"rules": "other", "runs": {}}', '{"runs": 1}', "[" * 100_000, "hostile", "link", "open"]
)
def test_a_memory_that_cannot_be_trusted_counts_for_nothing(run, reads, tmp_path, damage):
    """Damaged, of other code, another user's to write, a link: the journal is read, and the memory written anew."""
    kept(run, tmp_path / "cache")
    file = tmp_path / "cache" / "summaries.json"
    if damage == "hostile":
        record = json.loads(file.read_text())
        record["runs"][str(run.root)][1] = [{"type": "EndRun"}] * 30
        file.write_text(json.dumps(record))
    elif damage == "open":
        file.chmod(0o622)
    elif damage == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.write_text(damage)
    reads.clear()
    assert kept(run, tmp_path / "cache") == in_one_go(run)
    assert reads
    assert file.stat().st_mode & 0o777 == 0o600
    assert not file.is_symlink()


def test_without_a_place_to_remember_all_is_read(run, tmp_path):
    """A home that cannot be written is no reason to fail."""
    (tmp_path / "file").write_text("")
    assert kept(run, tmp_path / "file" / "cache") == in_one_go(run)


def test_the_stamp_changes_with_the_journal(run):
    """A line more, or a line that was changed, is seen without reading."""
    before = stamp(run)
    path = run.journal(2)
    about = path.stat()
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert stamp(run) != before
    assert stamp(RunPaths(run.root / "nothing")) == ()
