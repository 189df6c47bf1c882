from __future__ import annotations

import json
import re

import pytest

from ftslurm import cli
from ftslurm.insight.text import visible
from tests.insight.journals import DEAD, Tale, config_policy, make_run


def lost_node() -> Tale:
    """A run that goes on after a lost node."""
    tale = Tale(config_policy()).start().save(100, after=10).wait(3)
    return tale.lose("n3").launched().save(200, after=30)


def in_one_line(text: str) -> str:
    """A text without the ends of its lines, which lie elsewhere when a name is longer."""
    return " ".join(text.split())


@pytest.fixture
def policy(tmp_path):
    """A policy that wants all nodes."""
    file = tmp_path / "other.yaml"
    file.write_text("recovery: {min_nodes: 4}\n")
    return file


def test_a_run_alone_is_replayed_with_its_own_policy(root, capfd):
    """Its decisions, and whether this release takes the same."""
    paths = make_run(root, lost_node())
    assert cli.exit_code(["replay", "101"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"run {paths.run_id}: ")
    out = in_one_line(out)
    for words in ("1 decision", "decides everything as it was recorded", "recorded shrink on n[1-2,4]", "model, own"):
        assert words in out
    assert "model, other" not in out
    assert err == ""


def test_another_policy_stands_beside_it(root, capfd, policy):
    """The differences of the policies, of their decisions and of their prices, and both projections."""
    make_run(root, lost_node())
    assert cli.exit_code(["replay", "101", "--policy", str(policy), "--queue-wait", "20m"]) == 0
    out = in_one_line(capfd.readouterr().out)
    for words in (
        "recovery.min_nodes: 2 -> 4",
        "other requeue (",
        "more",
        "The other policy leaves the recorded course at entry",
        "model, other",
        "a requeued job waits 20 min 00 s, as --queue-wait says",
        "the model's error for the run's own policy: ETTR",
    ):
        assert words in out


def test_json_has_the_same(root, capfd, policy):
    """One object with stable keys; what is not known is null."""
    paths = make_run(root, lost_node())
    assert cli.exit_code(["replay", "101", "--policy", str(policy), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["run"]["run_id"] == paths.run_id
    assert told["as_recorded"] is True
    (decision,) = told["decisions"]
    assert (decision["own"]["kind"], decision["other"]["kind"], decision["same"]) == ("shrink", "requeue", False)
    assert decision["entry"] == told["leaves_record_at"]
    assert set(told["projection"]) == {
        "recorded_interval_s",
        "measured",
        "own",
        "other",
        "own_assumed",
        "other_assumed",
        "assumptions",
    }
    assert told["projection"]["measured"]["idle_spares_node_s"] is None
    first = json.dumps(told)
    cli.exit_code(["replay", "101", "--policy", str(policy), "--json"])
    assert json.dumps(json.loads(capfd.readouterr().out)) == first


def test_a_journal_of_another_release_is_told_with_its_first_entry(root, capfd):
    """Which entry, what was done then, and what this release does; and a note on what that may mean."""
    paths = make_run(root, lost_node())
    text = paths.journal(1).read_text()
    paths.journal(1).write_text(text.replace('"nodes":["n1","n2","n4"]', '"nodes":["n1","n2"]'))
    assert cli.exit_code(["replay", "101"]) == 0
    out, err = map(in_one_line, capfd.readouterr())
    assert "decides 2 of them otherwise than was recorded" in out
    assert re.search(r"the first is entry \d+, NodeFenced at", out)
    assert "starts attempt 1 on n[1-2]," in out
    assert "comes from a release with other rules" in err
    assert cli.exit_code(["replay", "101", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["first_mismatch"]["event"] == "NodeFenced"


def test_before_the_first_entry(root, capfd, policy):
    """There is nothing to replay, and nothing to project."""
    make_run(root, None, job_id="55")
    assert cli.exit_code(["replay", "55", "--policy", str(policy)]) == 0
    assert "nothing has happened yet" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["replay", "99"], 2, "no run is known as '99'"),
        (["replay", "101", "--policy", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["replay", "101", "--queue-wait", "soon"], 2, "--queue-wait"),
    ],
)
def test_calls_that_cannot_be_right_are_2(root, capfd, arguments, code, words):
    """The message says which value it was."""
    make_run(root, lost_node())
    assert cli.exit_code(arguments) == code
    assert words in capfd.readouterr().err


def test_a_policy_with_mistakes_is_2_with_its_lines(root, capfd, policy):
    """And nothing is printed beside it."""
    make_run(root, lost_node())
    policy.write_text("recovery:\n  min_node: 4\n")
    assert cli.exit_code(["replay", "101", "--policy", str(policy)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "other.yaml:2:3: recovery.min_node: unknown key" in err


def test_a_damaged_journal_is_65_with_file_and_line(root, capfd):
    """And so is one with a gap."""
    paths = make_run(root, lost_node())
    lines = paths.journal(1).read_text().splitlines()
    paths.journal(1).write_text("\n".join([*lines[:5], lines[5][:-9], *lines[6:]]) + "\n")
    assert cli.exit_code(["replay", "101"]) == 65
    assert "journal.1.jsonl, line 6" in capfd.readouterr().err
    paths.journal(1).write_text("\n".join([*lines[:5], *lines[6:]]) + "\n")
    assert cli.exit_code(["replay", "101"]) == 65
    assert "no entry 5" in capfd.readouterr().err


def test_hostile_names_do_nothing_to_the_terminal(root, capfd, tmp_path):
    """Neither a node's, nor what a program printed, nor the name of the policy's file."""
    evil = "n\x1b[31m\n4"
    file = tmp_path / "o\x1b[2J.yaml"
    file.write_text("recovery: {min_nodes: 4}\nheartbeat: {suspect_after: 1s}\n")
    tale = Tale(config_policy(), nodes=("n1", "n2", "n3", evil)).start().save(100, after=10).lose(evil, DEAD)
    make_run(root, tale.launched().wait(5))
    assert cli.exit_code(["replay", "101", "--policy", str(file)]) == 0
    out, _ = capfd.readouterr()
    assert "\x1b" not in out
    assert visible(evil) in out


def test_lines_fit_the_terminal(root, capfd, monkeypatch, policy):
    """COLUMNS decides, between 80 and 120."""
    make_run(root, lost_node())
    for columns, most in (("40", 80), ("90", 90), ("300", 120)):
        monkeypatch.setenv("COLUMNS", columns)
        assert cli.exit_code(["replay", "101", "--policy", str(policy)]) == 0
        assert max(map(len, capfd.readouterr().out.splitlines())) <= most
