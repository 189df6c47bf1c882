"""docs/how-to/nodes.md: its commands run, and its excerpt is what is printed."""

from __future__ import annotations

import shlex

import pytest

from ftslurm import cli
from ftslurm.plan.findings import lines
from ftslurm.plan.patterns import analyse
from tests.cli.test_nodes_analyze import write_trace
from tests.lab.longer import long_test
from tests.pages import DOCS, commands
from tests.plan.pasts import public, with_trace

PAGE = "how-to/nodes.md"


def test_every_command_of_the_page_runs(root, tmp_path, monkeypatch):
    """They end with code 0, in their order, and the picture is there."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    write_trace(tmp_path / "faults.csv")
    typed = [shlex.split(line) for line in commands(PAGE)]
    assert typed
    assert [cli.exit_code(words[1:]) for words in typed] == [0] * len(typed)
    assert (tmp_path / "faults.svg").exists()


@long_test("the public trace is analyzed")
@with_trace
def test_the_excerpt_is_what_is_printed():
    """Every line of it."""
    text = (DOCS / PAGE).read_text()
    excerpt = text.split("```\n")[2].splitlines()
    printed = list(lines(analyse(public())))
    assert [line for line in excerpt if line not in printed] == []
