"""Log files on storage that cannot be written."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ftslurm.runtime.logs import _PrivateFile


def test_a_full_disk_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of many records that cannot be written one after another, the first says so on stderr; so does the next spell's."""
    handler = _PrivateFile(Path("/dev/full"), delay=True)
    well = (tmp_path / "log").open("w", encoding="utf-8")
    record = logging.LogRecord("name", logging.INFO, __file__, 1, "text", None, None)
    for _ in range(5):
        handler.handle(record)
    assert capsys.readouterr().err.count("Logging error") == 1
    ill, handler.stream = handler.stream, well
    handler.handle(record)
    assert (tmp_path / "log").read_text() == "text\n"
    handler.stream = ill
    handler.handle(record)
    assert capsys.readouterr().err.count("Logging error") == 1
    handler.stream = well
    handler.close()
    with pytest.raises(OSError, match="No space"):
        ill.close()
