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


def test_the_story_is_printed(root, capfd):
    """What happened, why, and what it cost, for a run that is still going on."""
    paths = make_run(root, lost_node())
    assert cli.exit_code(["explain", "101"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"run {paths.run_id} is training")
    for words in ("INCIDENT 1: n3 was silent", "would have kept n3", "not requeue: costs", "excluded: n3", "in all "):
        assert words in out
    assert "nobody holds this run now" in err
    assert "ftslurm status 101" in err


def test_a_story_that_somebody_holds_goes_on_until_now(root, capfd, monkeypatch):
    """With a fresh lease the story's length is that until now, and there is nothing to advise."""
    monkeypatch.setattr(journals, "START", time.time() - 1000)
    paths = make_run(root, lost_node())
    record = {"epoch": 1, "job_id": "101", "restart": 0, "host": "n1", "pid": 1, "t": time.time() - 5}
    (paths.lease / "0").write_text(json.dumps(record))
    assert cli.exit_code(["explain", "101", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["story"]["totals"]["total_s"] > 990
    assert cli.exit_code(["explain", "101"]) == 0
    captured = capfd.readouterr()
    assert "hint:" not in captured.err
    assert "note: when nodes are lost, the run goes on with 3 or 2 of 4 nodes" in captured.err


def test_the_long_form_has_every_entry(root, capfd):
    """`-v` adds one line for each journal entry, `--json -v` the entries themselves."""
    tale = lost_node()
    make_run(root, tale)
    assert cli.exit_code(["explain", "101", "-v"]) == 0
    assert f"{len(tale.entries) - 1:>5} " in capfd.readouterr().out
    assert cli.exit_code(["explain", "101", "-v", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert [entry["n"] for entry in document["entries"]] == list(range(len(tale.entries)))
    assert set(document) == {"meta", "run", "notes", "story", "entries"}


def test_a_failed_run_says_how_to_go_on(root, capfd):
    """The hint names logs and resume, on stderr."""
    make_run(root, Tale(config_policy()).start().crash(0).launched().crash(0))
    assert cli.exit_code(["explain", "101"]) == 0
    out, err = capfd.readouterr()
    assert "failed, exit code 1: the same application error twice" in out
    assert "ftslurm resume 101" in err


def test_before_the_first_entry(root, capfd):
    """A run whose job waits has a story of one line."""
    make_run(root, None, job_id="55")
    assert cli.exit_code(["explain", "55"]) == 0
    assert "nothing has happened yet" in capfd.readouterr().out


def test_a_damaged_journal_is_65_with_file_and_line(root, capfd):
    """A line that cannot be read is named, and nothing is told from guesses."""
    paths = make_run(root, lost_node())
    lines = paths.journal(1).read_text().splitlines()
    lines[5] = lines[5][:-9]
    paths.journal(1).write_text("\n".join(lines) + "\n")
    assert cli.exit_code(["explain", "101"]) == 65
    out, err = capfd.readouterr()
    assert out == ""
    assert "journal.1.jsonl, line 6" in err


def test_a_journal_of_a_newer_release_is_65(root, capfd):
    """An event that this release does not know is refused, with the likely reason."""
    paths = make_run(root, lost_node())
    text = paths.journal(1).read_text()
    paths.journal(1).write_text(text.replace('"type":"NodeSuspected"', '"type":"NodeTeleported"'))
    assert cli.exit_code(["explain", "101"]) == 65
    assert "NodeTeleported" in capfd.readouterr().err


def test_lines_fit_the_terminal(root, capfd, monkeypatch):
    """COLUMNS decides, between 80 and 120."""
    make_run(root, lost_node())
    for columns, most in (("40", 80), ("90", 90), ("300", 120)):
        monkeypatch.setenv("COLUMNS", columns)
        assert cli.exit_code(["explain", "101"]) == 0
        assert max(map(len, capfd.readouterr().out.splitlines())) <= most
