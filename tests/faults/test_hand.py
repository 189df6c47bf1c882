from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.faults import processes
from ftslurm.faults.deeds import Limit, Prey, Send, Stutter, to_record
from ftslurm.faults.grip import Held
from tests.faults.conftest import RUN_ID

STOP = Send(signal="SIGSTOP", back="SIGCONT")


def hand(deed, rank=0, lasts_s=None, **more):
    """Send a hand on this machine."""
    order = json.dumps({"deed": to_record(deed), "rank": rank, "lasts_s": lasts_s, "more": more})
    return Held([sys.executable, "-m", "ftslurm.faults.hand", f"/nowhere/{RUN_ID}", order], os.environ)


def state_of(pid):
    """The letter of proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def await_state(pid, letters):
    """Wait until a process is in one of these states."""
    deadline = time.monotonic() + 60
    while state_of(pid) not in letters:
        assert time.monotonic() < deadline, state_of(pid)
        time.sleep(0.02)


def test_what_was_stopped_goes_on_when_the_hand_is_let_go(start):
    """The process that was meant and no other; both ends are told with their times."""
    victim, other = start(0), start(1)
    held = hand(STOP)
    told = held.done()
    assert told["pids"] == [victim.pid]
    assert told["at"] <= time.time()
    await_state(victim.pid, "T")
    assert state_of(other.pid) != "T"
    assert held.let_go()["undone_at"] >= told["at"]
    await_state(victim.pid, "SR")


def test_what_was_stopped_goes_on_by_itself(start):
    """After its time, though nobody lets the hand go."""
    victim = start()
    held = hand(STOP, lasts_s=0.3)
    held.done()
    await_state(victim.pid, "SR")
    assert held.let_go()["undone_at"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_hand_that_is_ended_undoes_its_deed(start, number):
    """However it is told to end."""
    victim = start()
    held = hand(STOP)
    held.done()
    await_state(victim.pid, "T")
    os.kill(held._child.pid, number)
    await_state(victim.pid, "SR")
    held.end()


def test_a_signal_before_the_waiting_is_not_lost():
    """It comes after the deed and before anybody waits for the end."""
    code = (
        "import os, signal\nfrom ftslurm.faults.hand import End\nend = End()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint(end.comes_within(60))\nprint(end.comes_within(0))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        began = time.monotonic()
        assert child.stdout.read().split() == ["True", "True"]
        assert time.monotonic() - began < 60
    assert child.returncode == 0


def test_a_deadly_signal_hits_the_program_alone(start):
    """Not what it has started: that ends with it, or not, as in a crash."""
    code = "import subprocess, sys\nc = subprocess.Popen(['sleep', '300'])\nprint(c.pid, flush=True)\ninput()"
    victim = start(code=code)
    child = int(victim.stdout.readline())
    held = hand(Send(signal="SIGKILL"))
    assert held.done()["pids"] == [victim.pid]
    held.end()
    assert victim.wait(30) == -signal.SIGKILL
    assert state_of(child) in "SR"
    os.kill(child, signal.SIGKILL)


def test_the_newest_incarnation_is_hit(start):
    """What is left of an earlier attempt is not the rank any more."""
    start(FTSLURM_ATTEMPT="0")
    newer = start(FTSLURM_ATTEMPT="1")
    assert [proc.pid for proc in processes.prey(RUN_ID, Prey.RANK, 0, 0)] == [newer.pid]


def test_a_stutter_is_stopped_and_continued(start):
    """Both states are seen, and it runs in the end."""
    victim = start()
    held = hand(Stutter(stopped_s=0.2, every_s=0.4))
    held.done()
    for letters in ("T", "SR", "T", "SR"):
        await_state(victim.pid, letters)
    held.let_go()
    await_state(victim.pid, "SR")


def test_a_limit_is_set_and_taken_back(start):
    """The soft limit alone, so that it can be."""
    victim = start(code="input()\nopen('/proc/self/comm')")
    before = resource.prlimit(victim.pid, resource.RLIMIT_FSIZE)
    held = hand(Limit(resource="FSIZE", value=0))
    held.done()
    assert resource.prlimit(victim.pid, resource.RLIMIT_FSIZE) == (0, before[1])
    held.let_go()
    assert resource.prlimit(victim.pid, resource.RLIMIT_FSIZE) == before


def test_nobody_is_hit_who_is_not_meant(start):
    """No such rank, no such agent: said, and nothing is done."""
    victim = start()
    for deed, words in ((STOP, "no process of rank 7"), (Send(signal="SIGKILL", to=Prey.AGENT), "of the agent")):
        with pytest.raises(UsageError, match=words):
            hand(deed, rank=7).done()
    assert state_of(victim.pid) in "SR"


def test_a_prey_that_is_just_being_started_is_waited_for(start):
    """As long as the order says: a second fault may strike before the ranks of the next attempt are there."""
    held = hand(STOP, patience_s=60)
    victim = start()
    assert held.done()["pids"] == [victim.pid]
    held.let_go()


def test_a_way_to_the_node_that_breaks_is_said():
    """With what it printed."""
    with pytest.raises(UsageError, match="no route"):
        Held(["sh", "-c", "echo no route >&2; exit 1"], None).done()
    with pytest.raises(ServiceUnavailable, match="cannot be run"):
        Held(["/nowhere/srun"], None)


@pytest.mark.parametrize(
    ("environ", "words", "kind"),
    [
        ({"FTSLURM_RUN_ID": RUN_ID, "FTSLURM_RANK": "3"}, ["python"], "rank"),
        ({"FTSLURM_RUN_ID": RUN_ID, "FTSLURM_RANK": "3"}, ["/usr/sbin/slurmstepd"], ""),
        ({"FTSLURM_RUN_ID": RUN_ID}, ["python", "rank.py"], "wrapper"),
        ({"FTSLURM_RUN_ID": "another", "FTSLURM_RANK": "3"}, ["python"], ""),
        ({"FTSLURM_AGENT": json.dumps({"run_id": RUN_ID})}, ["python", "-m", "ftslurm.runtime.agent"], "agent"),
        ({"FTSLURM_AGENT": json.dumps({"run_id": RUN_ID})}, ["python", "nvml"], "helper"),
        ({"FTSLURM_AGENT": json.dumps({"run_id": "another"})}, ["python", "-m", "ftslurm.runtime.agent"], ""),
        ({"FTSLURM_AGENT": "{"}, ["python", "-m", "ftslurm.runtime.agent"], ""),
        ({"FTSLURM_RING": json.dumps({"run_id": RUN_ID})}, ["python", "-m", "ftslurm.runtime.ring"], "ring"),
        ({}, ["python", "-m", "ftslurm.runtime.serve", f"/home/me/runs/{RUN_ID}"], "supervisor"),
        ({}, ["python", "-m", "ftslurm.runtime.serve", "/home/me/runs/another"], ""),
    ],
)
def test_a_process_is_known_by_its_environment_and_its_words(environ, words, kind):
    """What Slurm has started for the step is none of ours."""
    assert processes.kind_of(environ, words, RUN_ID) == kind
