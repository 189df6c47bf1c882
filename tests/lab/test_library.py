"""The library layout on the lab: partner copies instead of shared storage, and agents and supervisors that die in between.

The oracle of the result is the sum that the program computes, in closed form; that of the sources is what agents and
ranks have counted, and a shared store that is not there to be read from.
"""

from __future__ import annotations

import json
import signal

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.library import at_hand, history, library, partnered, right_digest, scratch_of
from tests.lab.longer import long_test

pytestmark = pytest.mark.lab


def test_lost_node_is_survived_without_shared_storage(lab: Cluster) -> None:
    """A node is killed, nothing was drained: the others go on from scratch and partner copies, to the right result."""
    run = library(lab, name="partner", checkpoint={"durable_every": "1h"})
    run.wait("partner copies", lambda: partnered(run))
    run.wait("a newer one", lambda: len(partnered(run)) >= 2)
    durable = run.durable()
    lab.kill("n3")
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    restored = run.events("RestoreReady")
    assert restored
    assert durable == run.durable()[: len(durable)]
    assert not any("shared" in event.get("source", "") for event in restored), restored
    assert run.wait_end(240) == ("finished", 0)
    assert set(run.done()) == {right_digest()}
    assert run.restored_steps()[1] >= 20
    for node in ("n1", "n2", "n4"):
        assert "shared" not in at_hand(run, node)


def test_killed_agent_goes_on_with_copy_and_drain(lab: Cluster) -> None:
    """An agent dies while parts are copied and drained: another one takes up both, and the run ends right."""
    run = library(lab, name="agent", checkpoint={"rate_limit": "1M/s"})
    run.wait("a drain", lambda: run.actions("Drain"))
    for proc in run.processes("agent", "n2"):
        proc.send(signal.SIGKILL)
    known = set(run.durable())
    run.wait("a new durable checkpoint", lambda: set(run.durable()) - known)
    run.wait("partner copies", lambda: partnered(run))
    assert run.wait_end(240) == ("finished", 0)
    assert set(run.done()) == {right_digest()}
    assert len(run.launches()) == 1


@long_test("the agent is killed in the test beside it")
def test_killed_supervisor_still_commits(lab: Cluster) -> None:
    """The supervisor dies between LOCAL and DURABLE: the next one commits what is on the nodes."""
    run = library(lab, name="supervisor", checkpoint={"rate_limit": "1M/s"})
    run.wait("a LOCAL checkpoint", lambda: run.actions("Drain"))
    assert not run.durable()
    for proc in run.processes("supervisor"):
        proc.send(signal.SIGKILL)
    run.wait("a durable checkpoint", run.durable)
    first = run.actions("Drain")[0]["generation"]
    assert run.durable()[0] == first or first < run.durable()[0]
    assert run.wait_end(240) == ("finished", 0)
    assert set(run.done()) == {right_digest()}


def test_checkpoint_now(lab: Cluster) -> None:
    """The operator asks for a checkpoint: the program saves within a few steps, and it is durable when the command ends."""
    run = library(lab, name="now", nodes=2, checkpoint={"every": {"steps": 100000}, "durable_every": "1h"})
    run.wait_step(0, 3)
    done = lab.login(
        ["ftslurm", "checkpoint", "now", run.job, "--json"],
        timeout=120,
        env={"FTSLURM_RUN_ROOT": str(run.root.parent)},
    )
    assert done.returncode == 0, done.stderr + run.story()
    generation = json.loads(done.stdout)["generation"]
    assert generation in run.durable()
    assert [each["state"] for each in history(run) if each["generation"] == generation] == ["local", "durable"]
    assert run.wait_end(240) == ("finished", 0)


def test_wrong_bytes_on_scratch_are_repaired_from_the_partner(lab: Cluster) -> None:
    """A byte of a node's own part has changed: its partner's copy is used, and the wrong file is kept aside."""
    run = library(lab, name="repair", checkpoint={"durable_every": "1h"})
    run.wait("partner copies", lambda: len(partnered(run)) >= 2)
    name = partnered(run)[-1]
    rank = next(proc for proc in run.processes("rank") if proc.rank == 1)
    with (scratch_of(rank) / "gen" / name / "d" / "00001.bin").open("r+b") as file:
        file.seek(5000)
        file.write(b"wrong")
    rank.send(signal.SIGKILL)
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    restored = run.events("RestoreReady")
    if restored[0]["generation"] == name:  # else a newer one has become whole meanwhile
        assert any(event["node"] == rank.node and "peer=" in event["source"] for event in restored)
    assert run.wait_end(240) == ("finished", 0)
    assert set(run.done()) == {right_digest()}


@long_test("packing is tested without Slurm in tests/checkpoint/test_deltadrain.py")
def test_packed_differences_are_restored_from_shared_storage(lab: Cluster) -> None:
    """Both holders of a part are lost: a difference that went packed is taken as committed, with its base, and is right."""
    saved = {"rate_limit": "1M/s", "full_every": 6, "delta": "auto"}
    run = library(lab, name="packed", checkpoint=saved, recovery={"min_nodes": 2})

    def packed() -> list[str]:
        raw = {commit["generation"]: commit["parts"] for commit in run.actions("CommitLocal")}
        known = [each for each in run.actions("CommitDurable") if each["generation"] in run.durable()]
        return [
            each["generation"]
            for each in known
            if each["parts"] != raw.get(each["generation"]) and each.get("about", {}).get("base")
        ]

    run.wait("a packed difference", packed)
    lab.kill("n2")
    lab.kill("n4")
    run.wait("the next attempt", lambda: len(run.restored_steps()) >= 2)
    restored = {each["generation"] for each in run.events("RestoreReady") if "shared=" in each.get("source", "")}
    assert restored & set(packed()), run.story()
    assert run.wait_end(240) == ("finished", 0)
    assert set(run.done()) == {right_digest()}
    assert "go packed to shared storage" in run.story()
