"""Runs that were really made, replayed: the journal of a supervisor holds the decisions of its policy."""

from __future__ import annotations

import json

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.longer import long_test
from tests.lab.training import patient

pytestmark = pytest.mark.lab


@long_test("a node is cut in a real run, whose journal is replayed")
def test_a_recorded_run_replays_to_its_own_decisions(lab: Cluster) -> None:
    """With its own policy: the recorded actions, all of them. With one that wants all nodes: the requeue that it costs."""
    run = patient(lab, name="replay", nodes=3, recovery={"min_nodes": 2})
    batch_host = run.events("AllocationGranted")[0]["batch_host"]
    victim = next(node for node in run.launches()[0] if node != batch_host)
    lab.cut(victim)
    run.wait("an attempt on two nodes", lambda: len(run.restored_steps()) == 2)
    lab.heal(victim)
    before = run.newest()
    run.wait("further checkpoints", lambda: run.newest() > before + 200)
    run.enough()
    assert run.wait_end() == ("finished", 0)
    other = run.work / "other.yaml"
    other.write_text("recovery: {min_nodes: 3}\n")
    replay = ["ftslurm", "replay", str(run.root), "--policy", str(other), "--queue-wait", "10m", "--json"]
    told = json.loads(run.lab.login(replay, timeout=60).stdout)
    assert (told["as_recorded"], told["first_mismatch"]) == (True, None), told["first_mismatch"]
    assert told["entries"] == len(run.records())
    shrunk = [each for each in told["decisions"] if each["own"]["kind"] == "shrink"]
    assert [tuple(each["own"]["nodes"]) for each in shrunk] == run.launches()[1:]
    assert [each["other"]["kind"] for each in shrunk] == ["requeue"]
    assert all(each["other"]["price_node_s"] > each["own"]["price_node_s"] for each in shrunk)
    assert told["leaves_record_at"] == shrunk[0]["entry"]
    measured, own, another = (told["projection"][name] for name in ("measured", "own", "other"))
    print(
        f"ETTR measured {measured['ettr']}, model {own['ettr']}; lost {measured['lost_node_s']}, {own['lost_node_s']}"
    )
    assert (own["attempts"], own["end"]) == (measured["attempts"], "finished")
    assert another["requeues"] == 1
    assert another["spent_s"]["queued"] == 600.0
