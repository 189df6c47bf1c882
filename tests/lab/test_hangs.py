"""Programs that stand still, or only seem to: what is seen, what is done, and what is left alone."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.training import LabRun, program, submit, workplace

pytestmark = pytest.mark.lab

QUICK = {"progress": {"hang_after": "4s"}}


def beating(lab: Cluster, name: str, nodes: int, *arguments: object, **more: Any) -> LabRun:
    """Submit a program that beats until `enough` is told."""
    work = workplace(lab, name, more.get("user"))
    command = program("beating", "--until", work / "enough", *arguments)
    return submit(lab, command, name=name, nodes=nodes, work=work, **{**QUICK, **more})


def bundles(run: LabRun) -> dict[int, dict]:
    """What the autopsy of attempt 0 has written, by rank."""
    paths = run.root.glob("logs/0/autopsy/*.json")
    return {rank["rank"]: rank for path in paths for rank in json.loads(path.read_text())["ranks"]}


def verdict(run: LabRun) -> str:
    """The sentence that says why the first attempt was stopped."""
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    (said,) = [each["text"] for each in run.actions("Say") if each.get("slug") == "program_hang"]
    return said


def test_hangs(lab: Cluster) -> None:
    """A rank that stands still and one that leaves the others alone are named and started again; a long save is not."""
    saving = beating(lab, "saving", 2, "--save-at", 30, "--save-s", 20, "--nan-at", 25)
    skipping = beating(lab, "skipping", 3, "--skip-at", 45, user=lab.user)
    stopped = beating(lab, "stopped", 3)
    stopped.wait("a committed checkpoint", stopped.durable)
    (victim,) = [proc for proc in stopped.processes("rank") if proc.rank == 2]
    victim.send(signal.SIGSTOP)

    assert f"the odd one out is rank 2 on {victim.node}: its process is stopped" in verdict(stopped)
    assert "the odd one out is rank 1 on n2: it is in " in (said := verdict(skipping))
    assert "leave_the_others_alone" in said
    for run, odd in ((stopped, 2), (skipping, 1)):
        found = bundles(run)
        assert set(found) == {0, 1, 2}
        assert all("all_reduce" in " ".join(found[rank]["frames"]) for rank in found if rank != odd)
        assert run.launches() == [("n1", "n2", "n3")] * 2
    assert stopped.restored_steps()[1] >= 20

    saving.wait("the long save", lambda: saving.newest() >= 40)
    assert len(saving.launches()) == 1
    assert not saving.events("RanksStalled")
    assert "the loss is nan (rank 1, step 25)" in saving.said()
    for run in (saving, skipping, stopped):
        run.enough()
    assert [run.wait_end() for run in (saving, skipping, stopped)] == [("finished", 0)] * 3


def test_a_look_before_a_collective_gives_up(lab: Cluster) -> None:
    """Nothing is ended by it; when the ranks are aborted, as NCCL's watchdog does, the odd one is named."""
    patience = {"hang_after": "1h", "collective_timeout": "10s"}
    run = beating(lab, "early", 3, "--skip-at", 45, progress=patience)
    run.wait("a look", lambda: "nothing is ended, but a collective's time-out may end it" in run.said())
    assert [event.get("early") for event in run.events("RanksStalled")] == [True]
    assert set(bundles(run)) == {0, 1, 2}
    assert (run.actions("FenceAttempt"), len(run.processes("rank", attempt=0)) >= 3) == ([], True)
    (first,) = [proc for proc in run.processes("rank", "n1") if proc.rank == 0]
    first.send(signal.SIGABRT)
    assert "the odd one out is rank 1 on n2: it is in " in verdict(run)
    run.enough()
    assert run.wait_end() == ("finished", 0)
