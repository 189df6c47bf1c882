"""kill -9 of a rank, an agent and the supervisor, in the middle of a save, of a partner copy and of a drain.

The array is large enough, and copies are slow enough, that each stage can be met; a rank that is met in a save is held
there until the blow has fallen.
"""

from __future__ import annotations

import signal

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.library import held_in_save, library, partnered, right_digest
from tests.lab.longer import long_test
from tests.lab.training import LabRun

pytestmark = [pytest.mark.lab, pytest.mark.timeout(420)]

COLUMNS = 1 << 16
RANK = 1


def in_copy(run: LabRun) -> list[str]:
    """The generations of which partners are taking copies."""
    done = set(partnered(run)) | set(run.durable())
    return [each["generation"] for each in run.actions("Replicate")[-1:] if each["generation"] not in done]


def in_drain(run: LabRun) -> list[str]:
    """The generations that are on their way to shared storage."""
    done = {each["generation"] for each in run.actions("CommitDurable")} | set(run.durable())
    return [each["generation"] for each in run.actions("Drain")[-1:] if each["generation"] not in done]


def kill(run: LabRun, kind: str) -> None:
    """Kill rank 1, the agent of its node, or the supervisor."""
    (rank,) = [proc for proc in run.processes("rank", attempt=len(run.launches()) - 1) if proc.rank == RANK]
    victims = [rank] if kind == "rank" else run.processes(kind, rank.node if kind == "agent" else "")
    assert victims
    for proc in victims:
        proc.send(signal.SIGKILL)


def blow(run: LabRun, kind: str, stage: str) -> None:
    """Kill somebody in a stage; what was committed stays, and checkpoints become LOCAL and durable again."""
    if stage == "save":
        with held_in_save(run, RANK) as (_, interrupted):
            known = run.durable()
            kill(run, kind)
        assert kind != "rank" or interrupted not in {each["generation"] for each in run.actions("CommitLocal")}
    else:
        run.wait(stage, lambda: in_copy(run) if stage == "copy" else in_drain(run))
        known = run.durable()
        kill(run, kind)
    attempt = len(run.launches()) - 1 + (kind == "rank")
    run.wait("ranks at work", lambda: run.step_of(attempt) >= 0)
    now = run.step_of(attempt)
    assert not known or run.durable()[-1] >= known[-1]
    run.wait("copies of a new one", lambda: any(int(name.split("-")[0]) >= now for name in partnered(run)))
    run.wait("a new durable one", lambda: int((run.durable() or ["0-0"])[-1].split("-")[0]) >= now)


@pytest.mark.parametrize(
    ("kind", "stages", "steps"),
    [
        pytest.param("rank", ("save",), 220, id="rank"),
        pytest.param("rank", ("save", "copy", "drain"), 360, id="rank-everywhere", marks=long_test("every stage")),
        pytest.param("agent", ("save", "copy"), 300, id="agent", marks=long_test("agents")),
        pytest.param("supervisor", ("save", "copy"), 300, id="supervisor", marks=long_test("supervisors")),
    ],
)
def test_killed_in_every_stage(lab: Cluster, kind: str, stages: tuple[str, ...], steps: int) -> None:
    """Whoever dies, and whenever: the run ends with the right result, and every checkpoint that it leaves is sound.

    The drains of agents and supervisors that die are those of test_library.py.
    """
    words = ("--columns", COLUMNS, "--steps", steps)
    run = library(lab, name=f"kill-{kind}", nodes=3, words=words, checkpoint={"rate_limit": "6M/s"})
    run.wait_step(0, 1)
    for stage in stages:
        blow(run, kind, stage)
    assert run.wait_end(240) == ("finished", 0)
    assert set(run.done()) == {right_digest(steps, COLUMNS)}
    assert len(run.launches()) == (1 + len(stages) if kind == "rank" else 1)
    verified = lab.login(["ftslurm", "checkpoint", "verify", str(run.root)], timeout=60)
    assert verified.returncode == 0, verified.stdout + verified.stderr
