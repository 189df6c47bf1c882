"""What watches over the training is lost, and the training is not: agents, supervisor, Slurm's controller."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.longer import long_test
from tests.lab.processes import Proc
from tests.lab.training import LabRun, await_that, let_pass, patient

pytestmark = pytest.mark.lab


def ident(proc: Proc) -> tuple[int, int]:
    """Process id and start time, which together are never used twice."""
    return proc.pid, proc.start


def identities(found: list[Proc]) -> set[tuple[int, int]]:
    """The same of several."""
    return set(map(ident, found))


def said_by_ranks(run: LabRun, attempt: int) -> list[list[str]]:
    """The second word after `rank N` of every line that both ranks have printed: that they start, and that they end."""
    return [[line.split()[2] for line in run.rank_log(attempt, rank).splitlines()] for rank in range(2)]


def test_training_does_not_notice(lab: Cluster) -> None:
    """Agents and supervisor may be killed, and the supervisor may stand still: the same ranks train on to the end."""
    run = patient(lab, name="unnoticed", nodes=2)
    ranks = identities(run.processes("rank"))
    assert len(ranks) == 2

    for node in ("n2", "n1"):  # n1 is the supervisor's own host
        old = run.only("agent", node)
        old.send(signal.SIGKILL)
        run.wait(
            f"a new agent on {node}", lambda node=node, old=old: identities(run.processes("agent", node)) - {ident(old)}
        )
    run.wait("both are known", lambda: len(run.events("AgentUp")) >= 4)

    parent, old = run.only("parent"), run.only("supervisor")
    old.send(signal.SIGKILL)
    run.wait("a new supervisor", lambda: run.processes("supervisor") and (run.root / "journal.2.jsonl").exists())
    assert run.only("parent") == parent
    assert run.job_says()[0] == "RUNNING"

    stopped = run.only("supervisor")
    stopped.send(signal.SIGSTOP)
    let_pass(12)  # longer than the dead man's time
    stopped.send(signal.SIGCONT)
    newest = run.newest()
    run.wait("checkpoints go on", lambda: run.newest() > newest)
    assert identities(run.processes("rank")) == ranks

    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert run.wait_job() == ("COMPLETED", "0:0")
    assert len(run.launches()) == 1
    await_that("nothing is left", lambda: not run.processes(), 30)
    assert said_by_ranks(run, 0) == [["starts", "ends"]] * 2
    assert run.output().count("rank 0 starts") == run.output().count("rank 0 ends") == 1


@pytest.fixture
def anew(lab: Cluster) -> Iterator[None]:
    """The lab anew after the test: Slurm's step daemons that have missed their controller try again only after a minute."""
    yield
    lab.down()
    lab.up(4)


@long_test("the controller is away from a healthy run above")
@pytest.mark.usefixtures("anew")
def test_controller_away_in_a_recovery(lab: Cluster) -> None:
    """Slurm's controller stands still when a node loses its power: the recovery takes longer, and is the same."""
    run = patient(lab, name="controller", nodes=3)
    lab.kill("n3")
    lab.freeze("slurmctld")
    try:
        run.wait("a verdict", lambda: run.actions("FenceAttempt"))
        let_pass(20)
    finally:
        lab.thaw("slurmctld")
    newest = run.newest()
    run.wait("checkpoints go on", lambda: run.newest() > newest)
    assert run.launches()[0] == ("n1", "n2", "n3")
    assert set(run.launches()[1:]) == {("n1", "n2")}
    assert run.restored_steps()[-1] >= 20

    # Slurm misses its steps on the node that has just booted, and may end them on all nodes, the agents' too.
    ranks, newest = identities(run.processes("rank")), run.newest()
    lab.start("n3")
    run.wait("checkpoints go on", lambda: run.newest() > newest + 40)
    assert identities(run.processes("rank")) == ranks
    run.enough()
    assert run.wait_end() == ("finished", 0)
    await_that("nothing is left", lambda: not run.processes(), 30)
    assert [words[-1] for words in said_by_ranks(run, run.actions("ReleaseRanks")[-1]["attempt"])] == ["ends"] * 2
