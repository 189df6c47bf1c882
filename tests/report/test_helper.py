"""The second process that draws a part of a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftslurm.report import helper
from ftslurm.report.contents import gather
from ftslurm.report.writing import write
from tests.report.scenes import eventful_run


def drawn(folder: Path) -> dict[str, bytes]:
    """The pictures in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".png", ".svg")}


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every machine a second core."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})


def test_the_helpers_pictures_are_those_that_are_drawn_without_one(tmp_path, caplog):
    """Byte for byte; where it ends before it has drawn anything they are drawn here."""
    caplog.set_level("INFO", logger="ftslurm.report")
    paths = eventful_run(tmp_path, only=("cpu",))
    with helper.helped(paths) as second:
        contents = gather(paths)
        write(contents, tmp_path / "two", second)
    assert caplog.records == []
    with helper.helped(paths) as second:
        assert second is not None
        second._child.kill()
        write(contents, tmp_path / "alone", second)
    assert "has not drawn" in caplog.text
    found = drawn(tmp_path / "two")
    assert len(found) == 14
    assert found == drawn(tmp_path / "alone")


def test_there_is_none_where_it_does_not_pay(tmp_path, monkeypatch):
    """Without samples, without a second core, without a picture that is wanted."""
    paths = eventful_run(tmp_path, only=("cpu",))
    with helper.helped(paths, wanted=False) as second:
        assert second is None
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    with helper.helped(paths) as second:
        assert second is None
    paths.samples.rename(tmp_path / "elsewhere")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    with helper.helped(paths) as second:
        assert second is None
