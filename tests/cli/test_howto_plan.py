"""docs/how-to/plan.md: its file is right, its commands run, and what it shows is what they print."""

from __future__ import annotations

import shlex

from ftslurm import cli
from tests.insight.journals import make_run
from tests.pages import blocks, commands, files
from tests.plan.test_measured import eventful

PAGE = "how-to/plan.md"


def test_every_command_of_the_page_runs(root, tmp_path, monkeypatch, capfd):
    """They end with code 0, in their order; the first prints the sentences that the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ftslurm.plan.models.FAILURES", 5)
    (tmp_path / "train.yaml").write_text(files(PAGE)["train.yaml"])
    make_run(root, eventful())
    typed = [shlex.split(line) for line in commands(PAGE)]
    assert len(typed) == 8
    assert cli.exit_code(typed[0][1:]) == 0
    out, err = capfd.readouterr()
    headline, note = (text.strip() for text in blocks(PAGE, "text"))
    assert out.splitlines()[0] == headline
    assert err.strip() == note
    assert [cli.exit_code(words[1:]) for words in typed[1:]] == [0] * (len(typed) - 1)
    assert {path.name for path in tmp_path.glob("ettr.*")} == {"ettr.svg", "ettr.png"}


def test_the_file_of_the_page_can_be_submitted(tmp_path, monkeypatch, capfd):
    """It is a whole configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text(files(PAGE)["train.yaml"])
    assert cli.exit_code(["config", "check", "train.yaml"]) == 0
    capfd.readouterr()
