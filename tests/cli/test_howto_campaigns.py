"""docs/how-to/campaigns.md: its plan and its configuration are right, and its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ftslurm import cli
from ftslurm.faults.campaign import known
from ftslurm.faults.planfile import Plan, load, plain
from tests.local_ranks import ROOT
from tests.pages import DOCS, commands, files

PAGE = "how-to/campaigns.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the page's files in it."""
    for name, text in files(PAGE).items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_plan_of_the_page_is_right(here: Path) -> None:
    """It has no mistake, and names the configuration beside it, which has none either."""
    plan = load(here / "nightly.yaml", known())
    assert plan.config == "train.yaml"
    assert plain(plan)["mtbf"] == ["30s"]
    assert cli.exit_code(["config", "check", str(here / "train.yaml")]) == 0


def test_every_ftslurm_command_of_the_page_runs(here: Path) -> None:
    """They end with code 0; the script that is named is there."""
    for words in map(shlex.split, commands(PAGE)):
        if words[0] == "ftslurm":
            assert cli.exit_code(words[1:]) == 0, words
        else:
            assert (ROOT / words[0]).is_file()


def test_every_key_of_a_plan_is_on_the_page() -> None:
    """In the plan that is shown, or in the table."""
    text = (DOCS / PAGE).read_text()
    named = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) | set(re.findall(r"^(\w+): ", text, re.MULTILINE))
    assert set(Plan.model_fields) <= named
