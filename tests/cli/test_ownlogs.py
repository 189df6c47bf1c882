"""`ftslurm logs` of ftslurm's own processes, and of the ranks of a node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftslurm import cli
from ftslurm.paths import RunPaths
from tests.cli.test_logs import following, wait_for_line
from tests.insight.journals import Tale, config_policy, make_run


def add(paths: RunPaths, name: str, second: int, message: str, **about: str) -> str:
    """A line of a process's log, as the process appends it; returns it."""
    attempt, level = about.get("attempt", "0"), about.pop("level", "info")
    role, _, node = name.partition("-")
    labels = {"run_id": paths.run_id, "job_id": "101", "attempt": attempt, "node": node, "rank": "-", "role": role}
    stamp = f"2026-02-25T06:13:{second:02d}.000Z"
    record = {"@timestamp": stamp, "log.level": level, "message": message, "labels": {**labels, **about}}
    path = paths.logs / attempt / f"{name}.ndjson"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return json.dumps(record)


@pytest.fixture
def run(root: Path) -> RunPaths:
    """Give a run in its second attempt, with lines of several processes."""
    tale = Tale(config_policy()).start().save(100, after=10)
    paths = make_run(root, tale.crash(0, signal=9).launched())
    add(paths, "supervisor-n1", 5, "rank 3 was killed", level="error", node="n2", rank="3")
    add(paths, "supervisor-n1", 1, "began")
    add(paths, "supervisor-n1", 9, "shrinks", level="warning", attempt="1")
    add(paths, "agent-n2", 3, "copied")
    add(paths, "agent-n2", 7, "no copy", level="error")
    add(paths, "rank-00003", 4, "ended", level="error", role="wrapper", rank="3", node="n2")
    return paths


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--own"], ["began", "copied", "ended", "rank 3 was killed", "no copy", "shrinks"]),
        (["--own", "-n", "2"], ["no copy", "shrinks"]),
        (["--own", "-n", "0"], []),
        (["--level", "error"], ["ended", "rank 3 was killed", "no copy"]),
        (["--level", "warning", "--attempt", "1"], ["shrinks"]),
        (["--own", "--node", "n2"], ["copied", "ended", "rank 3 was killed", "no copy"]),
        (["--own", "--rank", "2-4"], ["ended", "rank 3 was killed"]),
        (["--own", "--rank", "all", "--attempt", "0"], ["began", "copied", "ended", "rank 3 was killed", "no copy"]),
        (["--supervisor"], ["began", "rank 3 was killed", "shrinks"]),
        (["--supervisor", "--level", "error"], ["rank 3 was killed"]),
        (["--agent", "n2"], ["copied", "no copy"]),
    ],
)  # fmt: skip
def test_lines_are_chosen_and_sorted_by_time(run, capfd, arguments, messages):
    """Process, level, node, rank, attempt and number; --json gives the same lines as they were written."""
    assert cli.exit_code(["logs", "101", *arguments]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == messages
    assert cli.exit_code(["logs", "101", *arguments, "--json"]) == 0
    assert [json.loads(line)["message"] for line in capfd.readouterr().out.splitlines()] == messages


def test_a_line_says_when_how_grave_and_about_whom(run, capfd, monkeypatch):
    """Local time, level, node, process and rank stand before the words."""
    monkeypatch.setenv("TZ", "UTC")
    assert cli.exit_code(["logs", "101", "--level", "error"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "2026-02-25 06:13:04 error    n2 rank 3: ended",
        "2026-02-25 06:13:05 error    n2 supervisor rank 3: rank 3 was killed",
        "2026-02-25 06:13:07 error    n2 agent: no copy",
    ]


def test_own_logs_are_followed_over_attempts(run):
    """What is logged later comes, of new processes and attempts, too, and the end of the run ends it."""
    with following(run, "--own", "--json", "--level", "error") as process:
        wait_for_line(process, (run.logs / "0" / "agent-n2.ndjson").read_bytes().splitlines(keepends=True)[-1])
        add(run, "agent-n4", 20, "quiet", attempt="2")
        later = add(run, "agent-n4", 21, "late", attempt="2", level="error")
        wait_for_line(process, later.encode() + b"\n")
        tale = Tale(config_policy()).start().save(100, after=10)
        tale.crash(0, signal=9).launched().finish().write(run)
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait(60) == 0


def test_the_ranks_of_a_node_by_what_their_wrappers_say(run, capfdbinary):
    """--node prints what its ranks wrote, and nobody else's; with --rank one of them."""
    for rank, node in enumerate(("n1", "n1", "n2")):
        run.rank_log(0, rank).write_bytes(b"out %d\n" % rank)
        add(run, f"rank-{rank:05d}", 0, "began", role="wrapper", rank=str(rank), node=node)
    assert cli.exit_code(["logs", "101", "--node", "n1"]) == 0
    assert capfdbinary.readouterr().out == b"0| out 0\n1| out 1\n"
    assert cli.exit_code(["logs", "101", "--node", "n1", "--rank", "1,2"]) == 0
    assert capfdbinary.readouterr().out == b"1| out 1\n"


def test_an_attempt_that_has_printed_nothing_yet_is_not_the_newest(run, capfdbinary):
    """Ftslurm's own files of the next attempt are there earlier than its ranks' words."""
    run.rank_log(0, 0).write_bytes(b"old\n")
    add(run, "agent-n1", 30, "coming", attempt="2")
    assert cli.exit_code(["logs", "101"]) == 0
    assert capfdbinary.readouterr().out == b"old\n"
