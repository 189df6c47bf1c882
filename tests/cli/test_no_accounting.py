"""A site without accounting, or without its commands: every command says what it does not know, and none gives up."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftslurm import cli
from tests.insight.journals import Tale, config_policy, make_run
from tests.slurm.fake import BIN

FORGOTTEN = "4711"


def without_sacct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a PATH in place that has the fake Slurm but for the commands of accounting."""
    few = tmp_path / "few"
    few.mkdir()
    for path in BIN.iterdir():
        if path.name not in {"sacct", "sacctmgr", "fake_slurm.py"}:
            (few / path.name).symlink_to(path.resolve())
    for name in ("python3", "env"):
        (few / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(few))


@pytest.fixture
def no_accounting(slurm):
    """The fake Slurm without accounting; it has forgotten the job of the run."""
    slurm.change("accounting", value=False)
    slurm.change("config", "AccountingStorageType", value="accounting_storage/none")
    return slurm


@pytest.fixture
def lost(root):
    """A run that was training when it was last heard of."""
    return make_run(root, Tale(config_policy(), job_id=FORGOTTEN).start().save(100, after=10))


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["status", FORGOTTEN], 0, "Slurm knows no job 4711; to go on: ftslurm resume 4711"),
        (["explain", FORGOTTEN], 0, ""),
        (["logs", FORGOTTEN], 75, ""),
        (["checkpoint", "ls", FORGOTTEN], 0, ""),
        (["checkpoint", "now", FORGOTTEN], 75, ""),
        (["cancel", FORGOTTEN], 0, ""),
        (["nodes"], 0, ""),
        (["doctor"], 0, "there is no accounting database"),
    ],
)
def test_a_command_says_what_it_does_not_know(no_accounting, lost, capfd, argv, code, words):
    """Journals, logs and stores are enough for most; the doctor says what is missing where Slurm's settings say so."""
    assert cli.exit_code(argv) == code
    out, err = capfd.readouterr()
    assert words in out
    assert "Traceback" not in out + err


@pytest.mark.parametrize("kind", ["disabled", "slurmdbd away", "no sacct"])
def test_how_the_job_ended_is_not_guessed(slurm, lost, tmp_path, monkeypatch, capfd, kind):
    """However accounting fails to answer: a run is not resumed beside a job that nobody can speak for, unless forced."""
    if kind == "disabled":
        slurm.change("accounting", value=False)
    elif kind == "slurmdbd away":
        slurm.fail("sacct", "down", times=100)
    else:
        without_sacct(tmp_path, monkeypatch)
    assert cli.exit_code(["resume", FORGOTTEN]) == 75
    err = capfd.readouterr().err
    assert "neither slurmctld nor accounting knows it any more" in err
    assert "--force" in err
