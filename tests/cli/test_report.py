from __future__ import annotations

import json
import time

from ftslurm import cli
from tests.insight import journals
from tests.insight.journals import Tale, config_policy, make_run


def lost_node() -> Tale:
    """A run that goes on after a lost node."""
    tale = Tale(config_policy()).start().save(100, after=10).wait(3)
    return tale.lose("n3").launched()


def test_the_report_lies_in_the_run_and_its_page_is_named(root, capfd):
    """Standard output is the path of the page alone."""
    paths = make_run(root, lost_node())
    assert cli.exit_code(["report", "101"]) == 0
    out, err = capfd.readouterr()
    assert out == f"{paths.report / f'training_report_{paths.run_id}.html'}\n"
    assert (paths.report / f"run_timeline_{paths.run_id}.png").read_bytes().startswith(b"\x89PNG")
    assert "has not ended" in err
    assert "no samples" in err


def test_json_writes_no_files(root, capfd):
    """The same object as in the file; only --out writes files, too."""
    paths = make_run(root, lost_node())
    assert cli.exit_code(["report", "101", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["run"]["run_id"] == paths.run_id
    assert document["story"]["incidents"][0]["verdicts"][0]["where"] == "n3"
    assert not paths.report.exists()


def test_a_run_that_goes_on_is_told_until_now(root, capfd, monkeypatch):
    """With a fresh lease the time goes on after the last entry."""
    monkeypatch.setattr(journals, "START", time.time() - 1000)
    paths = make_run(root, lost_node())
    record = {"epoch": 1, "job_id": "101", "restart": 0, "host": "n1", "pid": 1, "t": time.time() - 5}
    (paths.lease / "0").write_text(json.dumps(record))
    assert cli.exit_code(["report", "101", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["wall_time"]["total_s"] > 990


def test_a_damaged_journal_is_told_as_far_as_it_can_be_read(root, capfd, tmp_path, monkeypatch):
    """The report is written and names file and line; the exit code is 65 nevertheless."""
    paths = make_run(root, lost_node())
    lines = paths.journal(1).read_text().splitlines()
    lines[5] = lines[5][:-9]
    paths.journal(1).write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # pictures are drawn in another test
    assert cli.exit_code(["report", "101", "--out", str(tmp_path / "a" / "b")]) == 65
    assert "journal.1.jsonl, line 6" in capfd.readouterr().err
    assert "journal.1.jsonl, line 6" in next((tmp_path / "a" / "b").glob("*.html")).read_text()


def test_what_cannot_be_done_has_its_code(root, capfd, tmp_path):
    """No such run: 2. No such folder: 73."""
    assert cli.exit_code(["report", "999"]) == 2
    make_run(root, lost_node())
    (tmp_path / "file").touch()
    assert cli.exit_code(["report", "101", "--out", str(tmp_path / "file" / "x")]) == 73
    capfd.readouterr()


def test_the_page_is_opened_in_a_browser(root, capfd, monkeypatch):
    """The browser gets the page's address; where there is none, the page is written and the way to it is told: 69."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    paths = make_run(root, lost_node())
    asked: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: asked.append(url) or True)
    assert cli.exit_code(["report", "101", "--json", "--open"]) == 0
    page = paths.report / f"training_report_{paths.run_id}.html"
    assert asked == [page.as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    page.unlink()
    capfd.readouterr()
    assert cli.exit_code(["report", "101", "--open"]) == 69
    assert f":{page} ." in capfd.readouterr().err
    assert page.exists()
