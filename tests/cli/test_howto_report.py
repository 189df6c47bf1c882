"""docs/how-to/report.md: its commands run, and its tables name what there is."""

from __future__ import annotations

import re
import shlex

from ftslurm import cli
from ftslurm.report.pictures import _KINDS
from ftslurm.runtime.resources import RESOURCES
from tests.insight.journals import Tale, config_policy, make_run
from tests.pages import DOCS, commands

PAGE = "how-to/report.md"


def test_every_command_of_the_page_runs(root, tmp_path, monkeypatch):
    """They end with code 0, in their order; what they draw is drawn in other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    make_run(root, Tale(config_policy()).start().save(100, after=10))
    typed = [shlex.split(line) for line in commands(PAGE)]
    assert typed
    assert [cli.exit_code(words[1:]) for words in typed] == [0] * len(typed)
    assert list((tmp_path / "reports").glob("*.html"))


def test_the_tables_of_the_page_name_everything():
    """Every picture and every metric of a sample is explained."""
    text = (DOCS / PAGE).read_text()
    named = set(re.findall(r"`([a-z_]+)\*?`", text))
    assert {f"{kind.name}_" for kind in _KINDS} <= named
    assert RESOURCES.keys() <= named
