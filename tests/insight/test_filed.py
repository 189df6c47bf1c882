from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from ftslurm import journal
from ftslurm.insight import filed
from ftslurm.insight.remembered import Cache
from ftslurm.insight.summary import summarise
from ftslurm.observer.__main__ import observe
from ftslurm.paths import RunPaths
from tests.insight.journals import Tale
from tests.observer.worlds import eventful, lines_of, run_with


@pytest.fixture
def ended(tmp_path: Path) -> RunPaths:
    """Give a run that has ended and has left its summary."""
    paths = run_with(tmp_path, eventful().finish())
    filed.leave(paths)
    return paths


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the lines that are read of journals."""
    lines: list[str] = []
    parse = journal.parse_line
    monkeypatch.setattr(journal, "parse_line", lambda line: (lines.append(line), parse(line))[1])
    return lines


def test_what_an_ended_run_has_left_is_what_its_journal_says(ended, reads):
    """Whoever never saw the run before reads no line of its journal, and knows the same."""
    found = Cache().of(ended)
    assert reads == []
    assert found == summarise(journal.read(ended))
    assert found.over


@pytest.mark.parametrize("change", ["grown", "touched", "another file", "gone"])
def test_a_summary_that_is_not_of_this_journal_counts_for_nothing(ended, reads, change):
    """A journal that has changed in any way since is read."""
    path = ended.journal(1)
    about = path.stat()
    if change == "grown":
        path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    elif change == "touched":
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns - 1))
    elif change == "another file":
        ended.journal(7).write_text("")
    else:
        path.unlink()
    assert Cache().of(ended) == summarise(journal.read(ended))
    assert bool(reads) == (change != "gone")


@pytest.mark.parametrize("damage", ["{", "[]", '{"run": 1}', "other code", "hostile", "open", "link"])
def test_a_summary_that_cannot_be_trusted_counts_for_nothing(ended, reads, damage):
    """Damaged, of other code, for others to write, a link: the journal is read."""
    record = json.loads(ended.summary.read_text())
    if damage == "other code":
        ended.summary.write_text(json.dumps({**record, "rules": "other"}))
    elif damage == "hostile":
        record["run"][1] = [{"type": "EndRun"}] * 30
        ended.summary.write_text(json.dumps(record))
    elif damage == "open":
        ended.summary.chmod(0o622)
    elif damage == "link":
        ended.summary.rename(ended.root / "elsewhere")
        ended.summary.symlink_to(ended.root / "elsewhere")
    else:
        ended.summary.write_text(damage)
    assert Cache().of(ended) == summarise(journal.read(ended))
    assert reads


def test_a_run_that_goes_on_leaves_nothing(tmp_path):
    """What would be old at once is not written."""
    paths = run_with(tmp_path, Tale().start())
    filed.leave(paths)
    assert not paths.summary.exists()


def test_what_cannot_be_summed_up_is_said(tmp_path, caplog):
    """A damaged journal, or a folder that takes nothing, ends nothing."""
    paths = run_with(tmp_path, eventful().finish())
    paths.summary.mkdir()
    filed.leave(paths)
    assert "is not kept" in caplog.text
    assert not list(paths.root.glob(".*.part"))


def test_the_observer_leaves_it_at_the_end(tmp_path):
    """When the supervisor says the last word, and the journal says that the run has ended."""
    tale = eventful().finish()
    paths = run_with(tmp_path, tale)
    observe(paths, io.StringIO(lines_of(tale)))
    found = filed.left_by(paths)
    assert found is not None
    assert found[1] == summarise(journal.read(paths))
