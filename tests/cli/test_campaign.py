from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

from ftslurm.cli import exit_code
from ftslurm.core.strictjson import encode
from ftslurm.faults import campaign as campaigns
from ftslurm.faults import schedule as schedules
from ftslurm.faults.book import Book
from ftslurm.faults.page import page
from ftslurm.faults.schedule import Schedule
from ftslurm.faults.score import Row, Score
from ftslurm.faults.truth import Injection, Outcome, Truth
from ftslurm.paths import RunPaths
from tests.insight.journals import Tale
from tests.local_ranks import ROOT

PLAN = (
    "name: nightly\nconfig: train.yaml\nmtbf: 10s\nduration: 1m\nfaults: {kill: 2, segv: 1}\ntargets: {runs: ['x']}\n"
)
EVIL = "<script>alert(1)</script>\x1b[31m"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without campaigns."""
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def book(home):
    """A campaign that is over: one run with one killed rank, which ended with the weights of the undisturbed one."""
    book = Book(home / "campaigns" / "nightly" / "0001")
    book.folder.mkdir(parents=True)
    book.plan.write_text(PLAN)
    book.schedule.write_bytes(schedules.encoded(Schedule(seed=1, weights={"kill": 1.0}, legs=())))
    book.note("undisturbed", digest="0123456789abcdef")
    book.note("begun", run="r", folder=str(home / "r"), **{"for": "faults"})
    paths = RunPaths(book.runs / "r")
    paths.attempt_logs(1).mkdir(parents=True)
    paths.rank_log(1, 0).write_text("final step 9 digest 0123456789abcdef\n")
    tale = Tale().start().save(100, after=10).wait(5)
    Truth(paths).append(Injection(id="a", fault="kill", at=tale.now, node="n1", rank=0, outcome=Outcome.DONE))
    tale.crash(0, signal=9, tail="")
    tale.launched().finish().write(paths)
    book.score.write_bytes(encode(campaigns.scored([book]).plain()))
    return book


def test_a_dry_run_shows_what_would_be_drawn(home, tmp_path, capsys):
    """The schedule of a seed is printed, the same each time, and nothing is made."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    assert exit_code(["campaign", "run", str(plan), "--dry-run", "--seed", "7"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("# seed 7, a fault every 10 s: ")
    assert exit_code(["campaign", "run", str(plan), "--dry-run", "--seed", "7", "--json"]) == 0
    (leg,) = json.loads(capsys.readouterr().out)["schedule"]["legs"]
    assert [line.split()[1] for line in first.splitlines()[1:]] == [draw["fault"] for draw in leg["draws"]]
    assert not home.exists()


def test_a_wrong_plan(home, tmp_path, capsys):
    """Exit code 2, and the place of every mistake."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.replace("mtbf", "mtfb"))
    assert exit_code(["campaign", "run", str(plan)]) == 2
    assert f"{plan}:3:1: mtfb: unknown key; did you mean mtbf?" in capsys.readouterr().err


def test_the_report_of_the_newest_campaign(book, capsys):
    """Truth and journal are put side by side: the killed rank was noticed, rightly, and the weights are equal."""
    assert exit_code(["campaign", "report"]) == 0
    assert "final weights beside the undisturbed run: equal 1" in capsys.readouterr().out
    assert exit_code(["campaign", "report", "--json", str(book.folder)]) == 0
    found = json.loads(capsys.readouterr().out)["score"]
    assert (found["recall"], found["right"], found["wrong_exclusions"]) == (1.0, 1.0, [])
    assert found["confusion"] == {"kill": {"rank_killed": 1}}
    assert found["times"]["detect"]["count"] == 1


def test_a_baseline(book, tmp_path, capsys):
    """The score is as good as its own baseline; beside a better one the exit code is 1 and says what is worse."""
    file = tmp_path / "good.json"
    assert exit_code(["campaign", "report", "--save-baseline", str(file)]) == 0
    assert exit_code(["campaign", "report", "--baseline", str(file)]) == 0
    better = json.loads(file.read_text())
    better["score"]["times"]["detect"]["p50"] = -10.0
    file.write_text(json.dumps(better))
    assert exit_code(["campaign", "report", "--baseline", str(file)]) == 1
    assert "worse than the baseline: detect takes" in capsys.readouterr().err
    file.write_text("{}")
    assert exit_code(["campaign", "report", "--baseline", str(file)]) == 65


def test_no_campaign(home, tmp_path, capsys):
    """Where there is none, and in a folder that holds none, the exit code is 2."""
    assert exit_code(["campaign", "report"]) == 2
    assert exit_code(["campaign", "report", str(tmp_path)]) == 2
    assert "holds no campaign" in capsys.readouterr().err


def test_the_page(book, tmp_path):
    """One file with tables and pictures, without a script and without anything from elsewhere."""
    file = tmp_path / "report.html"
    assert exit_code(["campaign", "report", "--html", str(file)]) == 0
    text = file.read_text()
    assert text.count("<svg") == text.count("<figure") == 3
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=\"(?!#)", text.replace("xlink:", ""))


def test_hostile_names_stay_text():
    """A name with markup and control characters is shown as what it is, in tables and in pictures."""
    row = Row(fault=EVIL, injected=1, due=1, detected=1, right=1, precision=1.0)
    found = Score(name=EVIL, began=0.0, rows=(row,), confusion={EVIL: {EVIL: 1}}, wrong_exclusions=(EVIL,))
    text = page(found, [found, found], [EVIL])
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text


def test_a_crontab_is_printed(tmp_path):
    """The plan's path is one word for the shell, whatever is in it, and a percent sign is none of cron's newlines."""
    plan = tmp_path / "a plan's 100%.yaml"
    plan.write_text(PLAN)
    script = [str(ROOT / "scripts" / "cron-campaign"), "--crontab", str(plan), "me@example.org", "5"]
    environ = {"PATH": "/usr/bin:/bin", "FTSLURM": f"{sys.prefix}/bin/ftslurm", "USER": "me"}
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True, env=environ)
    line = done.stdout.splitlines()[-1]
    assert "MAILTO=me@example.org" in done.stdout
    assert line.startswith("5 * * * * ")
    assert shlex.split(line.replace("\\%", "%"))[5:] == [script[0], str(plan.resolve())]
