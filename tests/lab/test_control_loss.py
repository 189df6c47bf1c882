"""What watches over the training is lost, and the training is not: agents, supervisor, Slurm's controller."""

from __future__ import annotations

import signal

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.training import LabRun, Proc, await_that, program, submit

pytestmark = pytest.mark.lab


def counting(lab: Cluster, name: str, nodes: int, steps: int) -> LabRun:
    """A program without any communication that counts 20 steps a second and saves every 20, and never fails."""
    run = submit(lab, program("crash", "--rank", 99, "--steps", steps, "--every", 20), name=name, nodes=nodes)
    run.wait("a committed checkpoint", run.durable)
    return run


def only(run: LabRun, kind: str, node: str = "") -> Proc:
    """The one process of its kind."""
    (found,) = run.processes(kind, node)
    return found


def identities(found: list[Proc]) -> set[tuple[int, int]]:
    """Process ids with start times."""
    return {(proc.pid, proc.start) for proc in found}


def test_training_does_not_notice(lab: Cluster) -> None:
    """Agents and supervisor may be killed, and the supervisor may stand still: the same ranks train on to the end."""
    run = counting(lab, "unnoticed", 2, 900)
    ranks = identities(run.processes("rank"))
    assert len(ranks) == 2

    for node in ("n2", "n1"):  # n1 is the supervisor's own host
        old = only(run, "agent", node)
        old.send(signal.SIGKILL)
        run.wait(f"a new agent on {node}", lambda: identities(run.processes("agent", node)) - identities([old]))
    run.wait("both agents are known", lambda: len(run.events("AgentUp")) >= 4)

    parent, old = only(run, "parent"), only(run, "supervisor")
    old.send(signal.SIGKILL)
    run.wait("a new supervisor", lambda: identities(run.processes("supervisor")) - identities([old]))
    run.wait("a second epoch", lambda: (run.root / "journal.2.jsonl").exists())
    assert only(run, "parent") == parent
    assert run.job_says()[0] == "RUNNING"

    stopped = only(run, "supervisor")
    stopped.send(signal.SIGSTOP)
    saved = len(run.durable())
    # Longer than any patience that the agents have with it: the dead man's time is 10 s.
    passed = len(run.lab.exec("n1", ["sleep", "12"], timeout=30).stdout)
    assert passed == 0
    stopped.send(signal.SIGCONT)
    assert identities(run.processes("rank")) == ranks
    run.wait("checkpoints go on", lambda: len(run.durable()) != saved or run.durable()[-1] > "0000007")

    assert run.wait_end() == ("finished", 0)
    assert run.job_says() == ("COMPLETED", "0:0")
    assert len(run.launches()) == 1
    assert run.durable()[-1] == "000000900-0000"
    await_that("nothing is left", lambda: not run.processes(), 30)


def test_controller_away_in_a_recovery(lab: Cluster) -> None:
    """Slurm's controller stands still when a node loses its power: the recovery takes longer, and is the same."""
    run = counting(lab, "controller", 3, 400)
    lab.kill("n3")
    lab.freeze("slurmctld")
    try:
        run.wait("end of the old attempt", lambda: [record for record in run.events("NodeFenced") if record["node"] == "n2"])
        lab.exec("n1", ["sleep", "20"], timeout=40)
    finally:
        lab.thaw("slurmctld")
    assert run.wait_end() == ("finished", 0)
    assert run.launches()[0] == ("n1", "n2", "n3")
    assert run.launches()[-1] == ("n1", "n2")
    assert run.restored_steps()[-1] >= 20
    assert run.durable()[-1].startswith("000000400")
    await_that("nothing is left", lambda: not run.processes(), 30)
