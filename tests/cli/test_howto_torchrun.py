"""docs/how-to/torchrun.md: its configurations are right, and its commands print what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ftslurm import cli
from tests.pages import blocks, commands, files
from tests.slurm.fake import FakeSlurm

PAGE = "how-to/torchrun.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the page's files in it."""
    for name, text in files(PAGE).items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_ftslurm_command_of_the_page_runs(slurm: FakeSlurm, here: Path) -> None:
    """They end with code 0, in their order; what goes to Slurm itself is run on the lab."""
    del slurm, here
    typed = [shlex.split(line) for line in commands(PAGE)]
    assert {words[0] for words in typed} == {"ftslurm", "sbatch"}
    for words in typed:
        if words[0] == "ftslurm":
            assert cli.exit_code(words[1:]) == 0, words


@pytest.mark.parametrize("name", sorted(files(PAGE)))
def test_every_configuration_of_the_page_is_right(slurm: FakeSlurm, here: Path, name: str) -> None:
    """`config check` finds no mistake in it."""
    del slurm
    assert cli.exit_code(["config", "check", str(here / name)]) == 0


def test_a_dry_run_prints_both_command_lines(slurm: FakeSlurm, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The page shows them as they are, but for what it leaves out by dots."""
    del slurm, here
    assert cli.exit_code(["submit", "torchrun.yaml", "--dry-run"]) == 0
    said = capfd.readouterr().err.splitlines()
    (shown,) = blocks(PAGE, "text")
    for line in shown.splitlines():
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("...")))
        assert any(pattern.fullmatch(each) for each in said), (line, said)
