"""Plans that need more than the nodes of an attempt: a spare in the allocation, and the memory of earlier runs.

And the other way round: a node that is well, and lost to the job all the same, is not remembered.
"""

from __future__ import annotations

import json
import time

import pytest

from ftslurm.core.lemons import DAY_S, Mark
from ftslurm.lab.cluster import Cluster
from ftslurm.ledger import Writer, read
from tests.lab.training import LabRun, patient

pytestmark = pytest.mark.lab


def test_spare_replaces_a_cut_node_and_the_next_run_leaves_it_out(lab: Cluster) -> None:
    """A spare takes the place of a lost node at full size; the mark makes the node a lemon for the next submission."""
    run = patient(lab, name="spare", nodes=2, recovery={"spares": 1})
    first = run.launches()[0]
    assert len(first) == 2
    allocated = tuple(run.events("AllocationGranted")[0]["nodes"])
    assert len(allocated) == 3
    batch_host = run.events("AllocationGranted")[0]["batch_host"]
    (victim,) = set(first) - {batch_host}
    lab.cut(victim)
    run.wait("an attempt with the spare", lambda: len(run.restored_steps()) == 2)
    lab.heal(victim)
    assert set(run.launches()[1]) == set(allocated) - {victim}
    assert run.restored_steps()[1] > 0
    assert "spare: 1 of 1 idle nodes" in run.said()
    (forecast,) = run.events("QueueEstimated")
    assert forecast["wait_s"] is None
    assert "0 requeues were measured, 3 are wanted" in forecast["source"]
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert_marked_and_excluded(run, victim)


def assert_marked_and_excluded(run: LabRun, victim: str) -> None:
    """The run has left one mark; with one of some days ago the node is a lemon, which `submit` names and leaves out."""
    folder = run.root.parent / "ledger"
    (mark,) = read(folder).marks
    assert (mark.node, mark.run) == (victim, run.run_id)
    config = str(run.work / "config.yaml")
    submit = ["ftslurm", "submit", config, "--dry-run", "--run-root", str(folder.parent)]
    assert "--exclude" not in run.lab.login(submit, timeout=60).stdout
    Writer(folder, "earlier").mark(Mark(node=victim, at=time.time() - 2 * DAY_S, cause="node_down"))
    said = run.lab.login(submit, timeout=60)
    assert f"#SBATCH --exclude={victim}" in said.stdout
    assert f"the node ledger excludes {victim}: 2 faults within 7 days" in said.stderr
    assert "--exclude" not in run.lab.login([*submit, "--no-ledger"], timeout=60).stdout
    shown = run.lab.login(["ftslurm", "nodes", "--json", "--ledger", str(folder)], timeout=60)
    assert [(each["node"], each["standing"]) for each in json.loads(shown.stdout)["nodes"]] == [(victim, "lemon")]
    run.lab.login(["ftslurm", "nodes", "forgive", victim, "--ledger", str(folder)], timeout=60)
    assert "--exclude" not in run.lab.login(submit, timeout=60).stdout


def test_a_healthy_node_that_slurm_takes_away_is_survived_and_gets_no_mark(lab: Cluster) -> None:
    """Slurm marks a node DOWN that is well, and takes it out of the job (M19): the others go on, nobody is blamed."""
    run = patient(lab, name="excised", nodes=3, recovery={"min_nodes": 2})
    victim = run.launches()[0][-1]
    lab.login(["scontrol", "update", f"NodeName={victim}", "State=DOWN", "Reason=by mistake"], timeout=30)
    run.wait("an attempt without it", lambda: len(run.restored_steps()) == 2)
    assert victim not in run.launches()[1]
    assert f"Slurm has taken {victim} out of the job" in run.said()
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert not read(run.root.parent / "ledger").marks
