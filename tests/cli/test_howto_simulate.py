"""docs/how-to/simulate.md: its commands run, and its table names every key."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ftslurm import cli
from ftslurm.complaints import known_keys
from ftslurm.plan.scenario import Scenario
from tests.pages import DOCS, commands, files

PAGE = "how-to/simulate.md"


def test_every_command_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They end with code 0, in their order; runs are shortened to two of the first case's."""
    monkeypatch.chdir(tmp_path)
    for name, text in files(PAGE).items():
        (tmp_path / name).write_text(text + "span: 1d\n")
    for line in commands(PAGE):
        words, _, target = line.partition(" > ")
        argv = shlex.split(words)[1:]
        argv += [] if "--example" in argv else ["--workers", "1", "--replications", "2"]
        assert cli.exit_code(argv) == 0, line
        out = capsys.readouterr().out
        if target:
            (tmp_path / target).write_text(out.replace("span: 30d", "span: 1d"))
    assert (tmp_path / "ettr.svg").read_text().startswith("<?xml")


def test_the_table_names_every_key() -> None:
    """But for those of `recovery`, which are described elsewhere."""
    text = (DOCS / PAGE).read_text()
    for path in known_keys(Scenario):
        if path[0] != "recovery" or len(path) == 1:
            name = ".".join(path)
            sections = name in ("faults", "detection", "repair", "requeue", "checkpoint")
            assert sections or re.search(rf"`({re.escape(name)}|{re.escape(path[-1])})`", text), name
