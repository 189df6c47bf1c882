"""Every command of the pages for awkward sites is run: here where it asks the fake Slurm, on the lab where it needs a job."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ftslurm import cli
from tests.cli.conftest import root, slurm
from tests.insight.journals import Tale, config_policy, make_run

__all__ = ["root", "slurm"]

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to"
NEEDS_A_JOB = ("--probe",)
CODES = {"ftslurm resume 4711": 75}


def text_of(page: str) -> str:
    """A page."""
    return (HOW_TO / f"{page}.md").read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    """What the page lets people type."""
    return re.findall(r"^\$ (.+)$", text_of(page), re.MULTILINE)


def cron_lines() -> list[str]:
    """The commands of the lines for cron and scrontab."""
    found = re.findall(r"^[0-9*/]+ .*?\$HOME/venv/bin/(ftslurm .+?) >", text_of("cron"), re.MULTILINE)
    return [" ".join(line.split()) for line in found]


@pytest.mark.parametrize("page", ["containers", "without-ssh"])
def test_the_commands_of_a_page_work(page, slurm, root, tmp_path, monkeypatch, capfd):
    """In their order, with the files that the page shows, each ends as the page says."""
    monkeypatch.chdir(tmp_path)
    for name, body in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL):
        Path(name).write_text(body.replace("/shared/runs", str(tmp_path / "runs")), encoding="utf-8")
    Path("train.py").touch()
    make_run(root, Tale(config_policy(), job_id="4711").start().save(100, after=10))
    slurm.change("accounting", value=False)
    done = [line for line in commands(page) if not any(word in line for word in NEEDS_A_JOB)]
    assert done
    for line in done:
        if "--force" in line:
            line += " --dry-run --from-start"  # noqa: PLW2901 - the run of this test has no store
        assert cli.exit_code(shlex.split(line)[1:]) == CODES.get(line, 0), (line, capfd.readouterr())


def test_the_lines_for_cron_work(slurm, root, capfd):
    """What stands behind the times is a command of ftslurm's; a probe is run on the lab."""
    lines = cron_lines()
    assert len(lines) == 3
    for line in lines:
        assert cli.exit_code(shlex.split(line.replace(" --probe", ""))[1:]) == 0, capfd.readouterr()
