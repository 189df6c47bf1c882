"""What a run learns of smaller worlds from the steps that it has made in them."""

from __future__ import annotations

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.longer import long_test
from tests.lab.training import LabRun, program, submit, workplace

pytestmark = pytest.mark.lab


def lose(lab: Cluster, run: LabRun, attempt: int) -> None:
    """Wait until the pace of an attempt's steps is known, then let Slurm take its last node."""
    run.wait("the pace of its steps", lambda: any(told["attempt"] == attempt for told in run.events("WorkPaced")))
    victim = run.launches()[attempt][-1]
    lab.login(["scontrol", "update", f"NodeName={victim}", "State=DOWN", "Reason=gone"], timeout=30)
    run.wait("the next attempt", lambda: len(run.restored_steps()) == attempt + 2)


@long_test("two attempts train for 20 s each, until their pace is known")
def test_a_smaller_world_is_priced_by_the_runs_own_steps(lab: Cluster) -> None:
    """The first plan assumes what a node does among fewer; the second knows two sizes, and `explain` shows them."""
    work = workplace(lab, "smaller", None)
    run = submit(lab, program("beating", "--until", work / "enough", "--pace", 0.1), name="smaller", nodes=4, work=work)
    lose(lab, run, 0)
    lose(lab, run, 1)
    assert [len(nodes) for nodes in run.launches()] == [4, 3, 2]
    assert [told["step_s"] > 0.09 for told in run.events("WorkPaced")][:2] == [True, True]
    first, second = (each["text"] for each in run.actions("Say") if each.get("slug") == "plan_shrink")
    assert "a node is taken to do as much as ever: the steps of no other world size are known" in first
    assert "times as much among 3 as among 4: a step takes " in second
    environ = {"FTSLURM_RUN_ROOT": str(run.root.parent)}
    shown = lab.login(["ftslurm", "explain", run.job], timeout=60, env=environ)
    assert "times as much among 3 as among 4" in " ".join(shown.stdout.split()), shown.stderr
    run.enough()
    assert run.wait_end() == ("finished", 0)
