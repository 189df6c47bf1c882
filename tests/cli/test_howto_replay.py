"""docs/how-to/replay.md: its commands run, and what it shows is what is printed."""

from __future__ import annotations

import re
import shlex
import time

from ftslurm import cli
from tests.insight.journals import make_run
from tests.pages import DOCS, commands, files
from tests.plan.tales import of_the_page

PAGE = "how-to/replay.md"


def test_every_command_of_the_page_runs(root, tmp_path, monkeypatch, capfd):
    """They end with code 0, in their order, and the second prints what the page shows but for the run's id."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        make_run(root, of_the_page())
        for name, text in files(PAGE).items():
            (tmp_path / name).write_text(text)
        printed = []
        for line in commands(PAGE):
            assert cli.exit_code(shlex.split(line)[1:]) == 0
            printed.append(capfd.readouterr().out)
    finally:
        monkeypatch.undo()
        time.tzset()
    (shown,) = re.findall(r"^```\n(run .*?)^```$", (DOCS / PAGE).read_text(), re.MULTILINE | re.DOTALL)
    lines, told = shown.splitlines(), printed[1].splitlines()
    assert lines[1:] == told[1 : len(lines)]
    assert lines[0].partition(": ")[2] == told[0].partition(": ")[2]
    assert all(line.startswith(("assumed: ", "         ")) for line in told[len(lines) :])
