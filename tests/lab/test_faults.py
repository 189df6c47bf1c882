"""Every fault of the catalogue that the lab can make: what is right to follow does, and the truth about it is written."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from ftslurm.demo.program import digest, trained
from ftslurm.faults.catalogue import CATALOGUE, Fault, Need, Where, by_name
from ftslurm.faults.choosing import Wish, choose, placing
from ftslurm.faults.inject import inject, undo
from ftslurm.faults.truth import Injection, Outcome, Truth
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.means import LabMeans
from ftslurm.paths import RunPaths
from tests.lab.longer import long_test
from tests.lab.training import LabRun, await_that, let_pass, program, settings, submit, workplace

pytestmark = pytest.mark.lab

WILLING = {
    "launch": {"mpi": "none", "env": {"OMP_NUM_THREADS": "1", "OBEY_FAULTS": "1"}},
    "checkpoint": {"files": "step_*.json", "settle": "1s"},
    "progress": {"hang_after": "4s"},
    "recovery": {"min_nodes": 2},
}
QUIET_S = 8.0
OVER = frozenset({"cancel", "requeue"})
"""Faults that end the job."""

MAKEABLE = [fault for fault in CATALOGUE.values() if Need.GPU not in fault.needs and fault.name != "gpu-mask"]


def willing(lab: Cluster, name: str, nodes: int, **more: Any) -> LabRun:
    """Submit a training that obeys until `enough` is told, and wait until it has two checkpoints."""
    work = workplace(lab, name, more.get("user"))
    command = program("willing", "--until", work / "enough")
    run = submit(lab, command, name=name, nodes=nodes, work=work, **WILLING, **more)
    run.wait("two checkpoints", lambda: len(run.durable()) > 1)
    return run


def on_ill_storage(lab: Cluster, name: str) -> LabRun:
    """The same with its run root on the storage that can be made ill, as it is seen from below the storage."""
    lab.storage.attach()
    work = workplace(lab, name, None)
    inside = lab.storage.path / work.name
    lab.login(["mkdir", "-m", "700", str(inside)], timeout=30)
    config = settings(name, program("willing", "--until", work / "enough"), 3, WILLING)
    (work / "config.yaml").write_text(json.dumps(config))
    argv = ["ftslurm", "submit", str(work / "config.yaml"), "--json", "--run-root", str(inside / "runs")]
    answer = json.loads(lab.login(argv, timeout=60).stdout)
    root = lab.storage.backing / inside.name / "runs" / Path(answer["run_dir"]).name
    run = LabRun(lab, root, work, answer["job_id"])
    run.wait("two checkpoints", lambda: len(run.durable()) > 1)
    return run


def slugs(run: LabRun) -> set[str]:
    """All that was said, in one word each."""
    return {str(action.get("slug", "")) for action in run.actions("Say")}


def excluded(run: LabRun) -> set[str]:
    """The nodes that were given up."""
    return {action["facts"]["excluded"] for action in run.actions("Say") if "excluded" in action.get("facts", {})}


def is_undisturbed(run: LabRun) -> bool:
    """Whether every rank ends with the weights that an undisturbed training has after as many steps."""
    logs = [run.rank_log(run.actions("ReleaseRanks")[-1]["attempt"], rank) for rank in range(len(run.launches()[-1]))]
    ends = {line for log in logs for line in log.splitlines() if line.startswith("final step")}
    (end,) = ends
    step = int(end.split()[2])
    return end == f"final step {step} digest {digest(trained(step))}"


class Strike:
    """One fault in one run, by the means of the lab."""

    def __init__(self, run: LabRun, name: str, **wish: Any) -> None:
        self.run, self.fault, self.paths = run, by_name(name), RunPaths(run.root)
        self.means = LabMeans.of_lab(run.lab, self.paths, consent=True)
        self.truth = Truth(self.paths)
        target = choose(self.fault, self.paths, placing(self.paths), Wish(seed=1, **wish))
        self.attempts, self.newest = len(run.restored_steps()), run.newest()
        self.done = inject(self.fault, target, self.means, self.truth)

    def undo(self) -> Injection:
        """Mend it."""
        return undo(self.done, self.means, self.truth)


def expect(strike: Strike) -> None:
    """Wait for what is right to follow while the fault lasts."""
    run, fault = strike.run, strike.fault
    if fault.where is Where.CHECKPOINT:  # it is seen when somebody reads it
        run.processes("rank")[-1].send(signal.SIGKILL)
    elif not fault.stops_training and not fault.causes:
        let_pass(min(fault.lasts_s or QUIET_S, QUIET_S))
    if fault.stops_training or fault.where is Where.CHECKPOINT:
        run.wait("the next attempt", lambda: len(run.restored_steps()) > strike.attempts)
    if fault.causes and fault.where is not Where.CONTROLLER:
        run.wait(f"one of {sorted(fault.causes)}", lambda: slugs(run) & fault.causes, 60)


@pytest.mark.parametrize("fault", MAKEABLE, ids=lambda fault: fault.name)
@long_test("every fault of the catalogue")
def test_what_is_right_to_follow_does(lab: Cluster, fault: Fault) -> None:
    """The cause is called by its name, the node is given up where it is right to, and the run goes on to its end."""
    run = on_ill_storage(lab, fault.name) if fault.where is Where.STORAGE else willing(lab, fault.name, 4)
    strike = Strike(run, fault.name)
    assert strike.done.outcome is Outcome.DONE
    if fault.name in OVER:
        end_with(run, fault)
        return
    expect(strike)
    mended = strike.undo()
    assert (mended.undone_at is not None) == bool(fault.undo)
    newest = run.newest()
    run.wait("checkpoints go on", lambda: run.newest() > newest + 20)
    if fault.costs_node:
        assert len(excluded(run)) == 1
    else:
        assert not excluded(run)
    if not fault.stops_training and fault.where is not Where.CHECKPOINT:
        assert len(run.restored_steps()) == strike.attempts
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert fault.name == "bit-flip" or is_undisturbed(run)
    await_that("nothing is left", lambda: not run.processes(), 60, run.story)
    (known, *_) = strike.truth.read()
    assert known == mended


def end_with(run: LabRun, fault: Fault) -> None:
    """A job that is cancelled ends its run; one that is requeued goes on as another incarnation."""
    if fault.name == "cancel":
        run.wait("the end", run.end)
        assert run.end() == ("cancelled", run.end()[1])
        return
    run.wait("another incarnation", lambda: len(run.events("AllocationGranted")) > 1)
    run.wait("training", lambda: len(run.restored_steps()) > 1)
    run.enough()
    assert run.wait_end() == ("finished", 0)


def test_two_faults_in_one_run(lab: Cluster) -> None:
    """As an ordinary user, by the command: a rank is stopped and continued, another one loses its loss; all is recorded."""
    run = willing(lab, "two", 2, user=lab.user)
    argv = ["ftslurm", "inject", "agent-stutter", str(run.root), "--node", "n2", "--for", "2s", "--json"]
    done = lab.login(argv, user=lab.user, timeout=60)
    assert done.returncode == 0, done.stderr
    stuttered = json.loads(done.stdout)["injection"]
    assert stuttered["node"] == "n2"
    assert stuttered["undone_at"] - stuttered["at"] >= 2.0
    argv = ["ftslurm", "inject", "nan", str(run.root), "--rank", "1", "--json"]
    done = lab.login(argv, user=lab.user, timeout=60)
    assert done.returncode == 0, done.stderr
    run.wait("it is told", lambda: "the loss is nan (rank 1" in run.said())
    records = Truth(RunPaths(run.root)).read()
    assert [(each.fault, each.outcome) for each in records] == [
        ("agent-stutter", Outcome.DONE),
        ("nan", Outcome.DONE),
    ]
    refused = lab.login(["ftslurm", "inject", "node-cut", str(run.root)], user=lab.user, timeout=60)
    assert refused.returncode == 77
    assert "node-cut needs the lab" in refused.stderr
    other = lab.login(["ftslurm", "inject", "kill", str(run.root)], timeout=60)
    assert (other.returncode, f"belongs to {lab.user}" in other.stderr) == (77, True)
    assert len(run.launches()) == 1
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert [name for name in (run.root / "faults.d").iterdir() if name.suffix == ".json"] != []
