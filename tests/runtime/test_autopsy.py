from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ftslurm.paths import LocalPaths, RunPaths, rank_log_name
from ftslurm.runtime.autopsy import Place, find_spy, flight_environment, stacks, state_of, take

PROGRAM = """
import subprocess, sys, threading, time
def waits_for_others(): threading.Event().wait()
def does_something_else(): time.sleep(1000)
threading.Thread(target=does_something_else, daemon=True).start()
child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(1000)"])
time.sleep(0.5)
print("ready", flush=True)
(waits_for_others if sys.argv[1] == "wait" else does_something_else)()
"""


@pytest.fixture
def ranks():
    """Starts programs that stand still; whatever they have started ends with the test."""
    started = []

    def start(how):
        argv = [sys.executable, "-c", PROGRAM, how]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True))
        while started[-1].stdout.readline() != b"ready\n":
            pass
        return started[-1].pid

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        process.stdout.close()


@pytest.fixture
def place(tmp_path):
    """A node with the logs of attempt 2."""
    found = Place("n1", 2, RunPaths(tmp_path / "run"), LocalPaths(tmp_path / "local"))
    found.local.flight(2).mkdir(parents=True)
    (found.local.spool(2) / rank_log_name(0)).write_text("first\nlast words\n")
    return found


def bundle_of(place):
    """What was stored, once it was."""
    path = place.paths.autopsy(2, "n1")
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        os.sched_yield()
    return json.loads(path.read_text())


def test_ranks_are_grouped_by_their_stacks(ranks, place):
    """Equal stacks are one group; a stopped process is told from one that waits; the bundle holds all the rest."""
    pids = {0: ranks("wait"), 1: ranks("wait"), 2: ranks("other")}
    os.kill(pids[1], signal.SIGSTOP)
    (place.local.flight(2) / "rank_0").write_bytes(b"trace")
    message = take(place, {**pids, 3: 2**22 - 1}, 20.0)
    found = {tuple(of): (state, frames) for state, frames, of in message["stacks"]}
    assert set(found) == {(0,), (1,), (2,), (3,)}
    assert [found[(rank,)][0] for rank in range(4)] == ["running", "stopped", "running", "gone"]
    assert "waits_for_others" in " ".join(found[(0,)][1])
    assert found[(0,)][1] == found[(1,)][1]
    assert found[(2,)][1][0].startswith("does_something_else (<string>:")
    assert message["notes"]  # py-spy says that there is no process for rank 3
    bundle = bundle_of(place)
    assert [each["rank"] for each in bundle["ranks"]] == [0, 1, 2, 3]
    first = bundle["ranks"][0]
    assert first["log"] == ["first", "last words"]
    assert len(first["threads"]) == 2
    assert len(first["children"]) == 1
    assert first["kernel"][str(pids[0])]
    assert not list(place.paths.autopsy(2, "n1").parent.glob(".*"))


def test_what_is_missing_is_said(ranks, monkeypatch, tmp_path):
    """Without py-spy, with one that hangs, and with one that is refused: no stacks, and the reason."""
    pid = ranks("wait")
    assert stacks(pid, None)[1] == "no Python stacks: py-spy is not installed (pip install 'ftslurm[hang]')"
    spy = tmp_path / "spy"
    spy.write_text("#!/bin/sh\necho 'Error: Permission denied (os error 13)' >&2\nexit 1\n")
    spy.chmod(0o755)
    assert "ptrace_scope" in stacks(pid, str(spy))[1]
    spy.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("ftslurm.runtime.autopsy.SPY_S", 0.2)
    assert stacks(pid, str(spy)) == ([], "no Python stacks: py-spy did not answer within 0 s")
    assert find_spy()
    assert state_of(os.getpid()) == "running"


def test_flight_recorder_is_asked_and_waited_for(place):
    """The ranks that listen on their pipe are asked, and what they write is copied when it is whole."""
    folder = place.local.flight(2)
    pipe = folder / "ask_0.pipe"
    os.mkfifo(pipe)
    os.mkfifo(folder / "ask_1.pipe")  # nobody listens
    heard = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def recorder():
        while not os.read(heard, 10):
            os.sched_yield()
        (folder / "rank_0").write_bytes(b"trace")

    thread = threading.Thread(target=recorder)
    thread.start()
    take(place, {}, 10.0)
    thread.join(30)
    os.close(heard)
    bundle_of(place)
    copy = place.paths.autopsy(2, "n1").with_name("n1-flight-rank_0")
    deadline = time.monotonic() + 30
    while not (copy.exists() and copy.read_bytes() == b"trace"):
        assert time.monotonic() < deadline
        os.sched_yield()


def test_what_the_user_has_set_stays(tmp_path):
    """The flight recorder is switched on except where the user has decided."""
    ours = flight_environment(tmp_path, {})
    assert ours["TORCH_FR_BUFFER_SIZE"] == "2000"
    assert ours["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"] == f"{tmp_path}/ask_"
    assert "TORCH_FR_BUFFER_SIZE" not in flight_environment(tmp_path, {"TORCH_FR_BUFFER_SIZE": "0"})
