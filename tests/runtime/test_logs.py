"""Log files: what stands on a line, which file it is in, and storage that takes none."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftslurm.core.actions import Say
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.state import Failure, Run
from ftslurm.paths import RunPaths
from ftslurm.runtime import logs, spoken

log = logging.getLogger(__name__)


@pytest.fixture
def who(tmp_path: Path) -> Iterator[logs.Process]:
    """A process that logs into a run's folder, until the test is over."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    (tmp_path / "gpt-1" / "logs").mkdir(parents=True)
    yield logs.Process(paths=RunPaths(tmp_path / "gpt-1"), role="agent", job_id="101_7", node="n3")
    root.handlers[:] = before
    root.setLevel(level)


def lines(who: logs.Process, attempt: int = 0) -> list[dict[str, Any]]:
    """What has been written of an attempt, once the thread has ended."""
    logs.finish(60.0)
    return [json.loads(line) for line in who.paths.process_log(attempt, who.role, who.node).read_text().splitlines()]


def test_a_line_says_when_who_where_and_about_what(who, capsys):
    """Names are ECS; node, rank and attempt are the process's own unless the line is about others; stderr has words."""
    logs.to_file(who)
    about = logs.event("copy", well=False, took_s=0.25, rank=7, node="n4")
    log.warning("%s \x1b[2J\nforged", "torn", extra=about)
    (line,) = lines(who)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["@timestamp"])
    assert (line["log.level"], line["message"]) == ("warning", "torn \x1b[2J\nforged")
    assert line["event"] == {"action": "copy", "outcome": "failure", "duration": 250_000_000}
    assert line["labels"] == {
        "run_id": "gpt-1", "job_id": "101_7", "attempt": "0", "node": "n4", "rank": "7", "role": "agent",
    }  # fmt: skip
    assert line["service"] == {"name": "ftslurm"}
    assert line["host"]["hostname"]
    said = capsys.readouterr().err
    assert re.fullmatch(r"\[ftslurm \d\d:\d\d:\d\d\] warning: agent n3: torn \\x1b\[2J\\nforged\n", said)


def test_what_people_know_already_is_not_said_twice(who, capsys):
    """What the supervisor has printed on the job's output is in the file, and not on stderr."""
    logs.to_file(who)
    logging.getLogger(logs.TOLD).error("rank 3 was killed")
    assert [line["message"] for line in lines(who)] == ["rank 3 was killed"]
    assert capsys.readouterr().err == ""


def test_an_exception_is_told_as_one(who, capsys):
    """Its type, its message, and its whole trace with the cause have fields of their own."""
    logs.to_file(who)
    outer = OSError("outer")
    outer.__cause__ = KeyError("inner")
    logs.complain(log, outer, "copying")
    (line,) = lines(who)
    assert line["message"] == "copying failed"
    assert (line["error"]["type"], line["error"]["message"]) == ("OSError", "outer")
    assert "KeyError: 'inner'" in line["error"]["stack_trace"]
    assert line["event"]["outcome"] == "failure"
    assert capsys.readouterr().err.endswith("error: agent n3: copying failed: OSError: outer\n")


def test_each_attempt_has_a_file_of_its_own(who):
    """What was said of no attempt belongs to the one that logs/current names; then to the one that is told."""
    logs.to_file(who, speaks=False)
    who.paths.current_logs.symlink_to("3")
    log.info("of the link")
    while not who.paths.process_log(3, "agent", "n3").exists():  # the thread has looked at the link
        time.sleep(0.01)
    logs.of_attempt(4)
    log.info("told")
    log.info("late", extra={"labels": {"attempt": "3"}})
    assert [line["message"] for line in lines(who, 4)] == ["told"]
    assert [line["message"] for line in lines(who, 3)] == ["of the link", "late"]


def test_a_full_disk_is_told_once_and_nothing_is_lost(who, capsys):
    """Of many lines that cannot be written one after another the first is told; all are written when there is room."""
    files = logs._Files(who)
    path = who.paths.process_log(0, "agent", "n3")
    path.parent.mkdir()
    record = logging.LogRecord("name", logging.INFO, __file__, 1, "text", None, None)
    record.labels = {"attempt": "0"}
    full = path.parent.with_name("full")
    path.parent.rename(full)
    path.parent.touch()  # a file where the folder should be
    for _ in range(5):
        files.handle(record)
    assert capsys.readouterr().err.count("cannot be written") == 1
    path.parent.unlink()
    files.handle(record)
    assert len(path.read_text().splitlines()) == 6
    assert capsys.readouterr().err == ""


def test_too_many_lines_are_counted(who, monkeypatch):
    """What waits is bounded; what was dropped is said before the next line."""
    monkeypatch.setattr(logs, "MOST_WAITING", 3)
    waiting: Any = queue.SimpleQueue()
    handler = logs._Queue(waiting, who, None)  # type: ignore[arg-type]
    record = logging.LogRecord("name", logging.INFO, __file__, 1, "text", None, None)
    for _ in range(5):
        handler.emit(record)
    assert waiting.qsize() == 3
    waiting.get()
    waiting.get()
    handler.emit(record)
    found = [waiting.get().getMessage() for _ in range(waiting.qsize())]
    assert found == ["text", "2 lines are missing here: too many waited to be written", "text"]


HANGS = """
import logging, os, sys, threading
from pathlib import Path
from ftslurm.paths import RunPaths
from ftslurm.runtime import logs
logs.to_file(logs.Process(paths=RunPaths(Path(sys.argv[1])), role="agent", job_id="1", node="n1"), speaks=False)
for number in range(1000):
    logging.error("line %d", number)
logs.FINISH_S = 0.1
print("decided", flush=True)
"""


def test_storage_that_hangs_holds_nobody_up(tmp_path):
    """A process whose log cannot be written logs on, and ends, also in the ordinary way with its exit handlers."""
    folder = tmp_path / "run" / "logs" / "0"
    folder.mkdir(parents=True)
    fifo = folder / "agent-n1.ndjson"
    os.mkfifo(fifo)  # nobody reads it: whoever opens it stands still
    argv = [sys.executable, "-c", HANGS, str(tmp_path / "run")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "decided\n", "")


def test_a_verdict_is_an_error_about_its_rank():
    """What the supervisor says of a failure carries node, rank and attempt of the failure; a plan is a warning."""
    found = Diagnosis(cause=Cause.RANK_KILLED, scope=Scope.RANK, where="5@n2", confidence=0.9, reason="it was killed")
    lost = Diagnosis(cause=Cause.NODE_DOWN, scope=Scope.NODE, where="n4", confidence=1.0, reason="n4 is down")
    failure = Failure(attempt=2, diagnosis=found, progressed=False, newest_step=0)
    run = Run(failures=(failure,), condemned={"n4": lost})
    said = spoken.extra_of(Say(text="it was killed", slug="rank_killed"), run)
    assert said["labels"] == {"attempt": "2", "node": "n2", "rank": "5"}
    assert (said["event.action"], said["error.type"]) == ("rank_killed", "rank_killed")
    assert spoken.extra_of(Say(text="n4 is down", slug="node_down"), run)["labels"] == {"node": "n4"}
    assert spoken.extra_of(Say(text="other words", slug="node_down"), run)["labels"] == {}
    levels = [spoken.level_of(slug) for slug in ("rank_killed", "plan_shrink", "cancel", "released", "")]
    assert levels == [logging.ERROR, logging.WARNING, logging.WARNING, logging.INFO, logging.INFO]
