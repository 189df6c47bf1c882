from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from ftslurm import cli
from ftslurm.core.lemons import DAY_S, Mark
from ftslurm.ledger import Writer
from tests.slurm.fake import FakeSlurm

PLAIN = {"name": "demo", "command": ["python", "train.py"], "resources": {"nodes": 2, "ranks_per_node": 2}}


def mark(folder: Path, node: str, *days_ago: float) -> None:
    """Leave marks in a ledger."""
    for days in days_ago:
        Writer(folder, "test").mark(Mark(node=node, at=time.time() - days * DAY_S, cause="node_down", reason="gone"))


@pytest.fixture
def ledger(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the user's ledger, with a lemon and a node that failed once."""
    monkeypatch.delenv("FTSLURM_LEDGER", raising=False)
    mark(root / "ledger", "n3", 1, 3)
    mark(root / "ledger", "n1", 2)
    return root / "ledger"


def config(folder: Path, **changes: object) -> str:
    """Write a configuration; return its path."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**PLAIN, **changes}))
    return str(path)


def excluded(fake: FakeSlurm, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], str]:
    """Submit; return what the job excludes, and what was said."""
    assert cli.exit_code(["submit", *words, "--parsable"]) == 0
    done = capfd.readouterr()
    return sorted(fake.state["jobs"][done.out.strip()]["exclude"]), done.err


def test_table_shows_the_worst_first(slurm, ledger, capfd):
    """Standing, marks, cause and reason; one line a node."""
    assert cli.exit_code(["nodes"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["NODE", "STANDING", "MARKS", "LAST", "CAUSE", "REASON"]
    assert [line.split()[:3] for line in lines[1:]] == [["n3", "lemon", "2"], ["n1", "marked", "1"]]
    assert "2 faults within 7 days" in lines[1]


def test_json_is_one_object(slurm, ledger, capfd):
    """With the last mark of every node."""
    assert cli.exit_code(["nodes", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["meta"]["schema"], found["fleet"], found["ledger"]) == (1, 4, str(ledger))
    assert [each["node"] for each in found["nodes"]] == ["n3", "n1"]
    assert found["nodes"][0]["last"]["reason"] == "gone"


def test_an_empty_ledger_is_no_error(slurm, tmp_path, capfd):
    """Nothing on stdout, a word on stderr, and nothing is made."""
    assert cli.exit_code(["nodes", "--ledger", str(tmp_path / "none")]) == 0
    done = capfd.readouterr()
    assert done.out == ""
    assert "no node has a mark" in done.err
    assert not (tmp_path / "none").exists()


def test_nodes_are_shown_without_slurm(slurm, ledger, capfd):
    """Slurm away: the ledger's own count of nodes."""
    slurm.fail("scontrol", "down", times=9)
    assert cli.exit_code(["nodes"]) == 0
    done = capfd.readouterr()
    assert "n3" in done.out
    assert "Slurm does not say how many nodes there are" in done.err


def test_forgiven_nodes_are_clean(slurm, ledger, capfd):
    """What was repaired is not excluded; a name without marks is a mistake."""
    assert cli.exit_code(["nodes", "forgive", "n[1,3]", "--reason", "new DIMM"]) == 0
    capfd.readouterr()
    assert cli.exit_code(["nodes", "--json"]) == 0
    assert {each["standing"] for each in json.loads(capfd.readouterr().out)["nodes"]} == {"clean"}
    assert cli.exit_code(["nodes", "forgive", "n2"]) == 2
    assert "no mark of n2" in capfd.readouterr().err


def test_submit_leaves_lemons_out_and_says_so(slurm, ledger, tmp_path, capfd):
    """The lemon besides the user's own list; not with --no-ledger."""
    file = config(tmp_path)
    names, said = excluded(slurm, capfd, file)
    assert names == ["n3"]
    assert "the node ledger excludes n3: 2 faults within 7 days" in said
    assert excluded(slurm, capfd, file, "--exclude", "n4")[0] == ["n3", "n4"]
    assert excluded(slurm, capfd, file, "--no-ledger", "-x", "n[2,4]")[0] == ["n2", "n4"]


def test_lemons_are_taken_where_nodes_are_few(slurm, ledger, tmp_path, capfd):
    """A job that needs every node gets the lemon, with a word."""
    names, said = excluded(slurm, capfd, config(tmp_path, resources={"nodes": 4}))
    assert names == []
    assert "would exclude n3 too, and does not: 4 of 4 nodes are asked for" in said


def test_a_ledger_that_cannot_be_read_stops_no_submission(slurm, tmp_path, capfd, monkeypatch):
    """The environment names the group's ledger; where that is no folder nothing is excluded."""
    monkeypatch.setenv("FTSLURM_LEDGER", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    names, said = excluded(slurm, capfd, config(tmp_path))
    assert names == []
    assert "the node ledger excludes nothing" in said


def test_configured_ledger_and_spares(slurm, tmp_path, capfd):
    """`recovery.ledger` names another folder; spares are asked for with their tasks, and count as asked for."""
    mark(tmp_path / "group", "n2", 1, 3)
    file = config(tmp_path, recovery={"ledger": str(tmp_path / "group"), "spares": 1})
    assert cli.exit_code(["submit", file, "--parsable"]) == 0
    job = slurm.state["jobs"][capfd.readouterr().out.strip()]
    assert (job["num_nodes"], job["num_tasks"], job["exclude"]) == (3, 6, ["n2"])
