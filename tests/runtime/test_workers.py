"""Ranks that a program below the wrapper has started itself, as torchrun does: found, signalled, and told apart."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from ftslurm.core.diagnosis import Cause
from ftslurm.core.events import RankExited
from ftslurm.core.facts import of_exit
from ftslurm.core.patterns import Role
from ftslurm.runtime import rank, workers
from ftslurm.runtime.ranks import LocalRank, RankTable
from tests.runtime.conftest import Starter
from tests.runtime.stage import Agent, is_gone, wait_until

DATA = Path(__file__).parent.parent / "data" / "torchrun"
STARTER = """
import os, signal, subprocess, sys
# As torchrun: its ranks have names of its own in their environment; each has a helper, which inherits them.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(99))
os.environ["LOCAL_RANK"] = "0"
children = []
for local in range(2):
    mine = {**os.environ, "RANK": str(2 + local), "LOCAL_RANK": str(local), "ROLE_RANK": str(2 + local)}
    code = f"trap 'echo rank {2 + local} saves; exit 0' TERM; sleep 600 & " + 'wait "$!"'
    children.append(subprocess.Popen(["bash", "-c", code], env=mine))
print("both are there", flush=True)
codes = [child.wait() for child in children]
sys.exit(1 if any(codes) else 0)
"""
TWO = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "FTSLURM_RANKS_PER_TASK": "2"}


def row(**more: Any) -> LocalRank:
    """A task that stands for the ranks 2 and 3."""
    return LocalRank(attempt=0, rank=2, said={"ranks": 2, "pid": os.getpid()}, **more)


def ended(code: int = 1, tail: str = "", signum: int = 0, *, oom: bool = False) -> RankExited:
    """How the task's program has ended."""
    return RankExited(attempt=0, rank=2, node="n2", code=code, signal=signum, tail=tail, oom=oom)


def test_a_task_registers_for_all_its_ranks(agent: Agent, start: Starter, folder: Path) -> None:
    """The second of two tasks with two ranks each is rank 2 of 4; its ranks are found, and a signal goes to them alone."""
    process = start(sys.executable, "-c", STARTER, **TWO)
    said = agent.expect("register")
    assert (said["rank"], said["world"], said["ranks"]) == (2, 4, 2)
    log = folder / "rank.log"
    agent.go(log=str(log))
    wait_until(lambda: log.exists() and "both" in log.read_text(), "the ranks run")
    found = rank.workers(rank.descendants(process.pid))
    assert sorted(found) == [2, 3]
    assert all(Path(f"/proc/{pid}/comm").read_text() == "bash\n" for pid in found.values())
    agent.say({"t": "signal", "signum": signal.SIGTERM, "to": "child"})
    assert agent.expect("exit")["code"] == 0
    assert sorted(log.read_text().splitlines()[1:]) == ["rank 2 saves", "rank 3 saves"]


def test_a_signal_reaches_a_program_that_has_no_ranks_yet(agent: Agent, start: Starter) -> None:
    """Before torchrun has started anything it is the only one who can be told."""
    start("sleep", "600", **TWO)
    agent.expect("register")
    agent.go()
    agent.say({"t": "signal", "signum": signal.SIGTERM, "to": "child"})
    assert agent.expect("exit")["signal"] == signal.SIGTERM


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_failed_rank_is_seen_at_once(agent: Agent, start: Starter, folder: Path, signum: signal.Signals) -> None:
    """How a rank has ended is known before its starter says a word; a starter that goes on is ended for it."""
    process = start(sys.executable, "-c", STARTER, **TWO)
    agent.expect("register")
    log = folder / "rank.log"
    agent.go(log=str(log))
    task, finished = row(), []
    task.said["pid"] = process.pid
    wait_until(lambda: len(rank.workers(rank.descendants(process.pid))) == 2, "the ranks run")
    workers.watch(task, lambda: bool(finished), lambda: finished.append(True))
    wait_until(lambda: len(task.workers) == 2, "both are known")
    os.kill(task.workers[3], signum)
    if signum == signal.SIGKILL:
        wait_until(lambda: finished, "the task is to be ended")
        assert task.ends == {3: (137, 9)}
    else:
        wait_until(lambda: task.ends, "its end is seen")
        assert task.ends == {3: (0, 0)}
        assert not finished
        finished.append(True)
    agent.say({"t": "kill"})
    agent.expect("exit")
    assert all(is_gone(pid) for pid in task.workers.values())


def test_success_is_that_of_every_rank() -> None:
    """A task that ends well counts for each rank it stands for."""
    assert [(end.rank, end.code) for end in workers.ends_of(row(), ended(0))] == [(2, 0), (3, 0)]


@pytest.mark.parametrize(
    ("ends", "file", "first"),
    [
        ({2: (143, 15), 3: (137, 9)}, None, (3, 137, 9)),
        ({2: (137, 9)}, "raise.txt", (3, 1, 0)),
        ({2: (0, 0), 3: (1, 0)}, "raise.txt", (3, 1, 0)),
        ({}, "kill.txt", (3, 137, 9)),
        ({}, "raise.txt", (3, 1, 0)),
        ({}, "accelerate.txt", (3, 1, 0)),
        ({}, None, (2, 1, 0)),
    ],
)
def test_the_rank_that_began_it_comes_first(
    ends: dict[int, tuple[int, int]], file: str | None, first: tuple[int, int, int]
) -> None:
    """Torchrun's summary counts, then what the kernel has said, then the task itself; the others only follow."""
    # The recorded summaries are of ranks 0 and 1.
    tail = (DATA / file).read_text().replace("rank      : 1 ", "rank      : 3 ") if file else ""
    found = workers.ends_of(row(ends=dict(ends)), ended(tail=tail))
    assert (found[0].rank, found[0].code, found[0].signal) == first
    assert sorted(end.rank for end in found) == [2, 3]
    follows = of_exit(found[1])
    assert follows.role is Role.CASCADE
    assert found[1].code == (0 if ends.get(found[1].rank) == (0, 0) else 143)


@pytest.mark.parametrize("file", ["raise.txt", "accelerate.txt"])
def test_the_programs_own_words_are_the_verdict(file: str) -> None:
    """The exception of the rank is what is said, and its place is the program's line, not one of torchrun's."""
    tail = (DATA / file).read_text().replace("rank      : 1 ", "rank      : 3 ")
    fact = of_exit(workers.ends_of(row(), ended(tail=tail))[0])
    assert fact.cause is Cause.APPLICATION_ERROR
    assert fact.where == "3@n2"
    assert "ValueError: no such sample: 7" in fact.text
    assert fact.signature.endswith("ValueError /home/me/t.py:4")


def test_memory_is_the_reason_for_the_killed_rank_alone() -> None:
    """The kernel's memory killer struck the rank that SIGKILL ended, not those that torchrun ended after it."""
    found = workers.ends_of(row(ends={3: (137, 9)}), ended(oom=True))
    assert [(end.rank, end.oom) for end in found] == [(3, True), (2, False)]
    assert not workers.ends_of(row(ends={3: (1, 0)}), ended(oom=True))[0].oom


class Wrapper:
    """A channel that is heard as a wrapper's, and keeps what it is told."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages, self.told = list(messages), list[dict[str, Any]]()

    async def recv(self) -> dict[str, Any]:
        if not self.messages:
            raise_closed()
        return self.messages.pop(0)

    def send(self, message: dict[str, Any]) -> None:
        self.told.append(message)


def raise_closed() -> None:
    """End the conversation."""
    from ftslurm.runtime.control import ChannelClosed

    raise ChannelClosed("over")


def test_the_table_reports_every_rank_of_a_task() -> None:
    """From one registration and one end come the announcement of one task and the ends of its two ranks."""
    reported: list[RankExited] = []
    announced: list[LocalRank] = []
    table = RankTable("n2", reported.append, announced.append, lambda _: None)
    about = {"attempt": 0, "rank": 2, "world": 4, "ranks": 2, "pid": os.getpid(), "state": "waiting"}
    channel: Any = Wrapper({"t": "register", **about}, {"t": "exit", "code": 1, "signal": 0, "tail": ""})
    asyncio.run(table.serve(channel))
    assert [(each.rank, each.count) for each in announced] == [(2, 2)]
    assert [(end.rank, end.code) for end in reported] == [(2, 1), (3, 143)]
    assert channel.told == [{"t": "ack"}]


@pytest.mark.parametrize("state", ["waiting", "running", "exited"])
def test_a_rank_that_another_agent_has_let_go_is_adopted(state: str) -> None:
    """Once, however often it comes again; one that still waits is this agent's own."""
    adopted: list[LocalRank] = []
    table = RankTable("n2", lambda _: None, lambda _: None, adopted.append)
    about = {"t": "register", "attempt": 1, "rank": 2, "world": 4, "pid": os.getpid()}
    for now in (state, "exited"):
        channel: Any = Wrapper({**about, "state": now})
        asyncio.run(table.serve(channel))
    assert [(row.attempt, row.rank) for row in adopted] == ([] if state == "waiting" else [(1, 2)])
