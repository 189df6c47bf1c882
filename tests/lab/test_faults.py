"""Every fault of the catalogue that the lab can make: what is right to follow does, and the truth about it is written."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ftslurm.demo.program import digest, trained
from ftslurm.faults.catalogue import CATALOGUE, Fault, Need, Where, by_name, double_at
from ftslurm.faults.choosing import Wish, choose, placing
from ftslurm.faults.deeds import Moment
from ftslurm.faults.inject import inject, undo
from ftslurm.faults.truth import Injection, Outcome, Truth
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.means import LabMeans
from ftslurm.paths import RunPaths
from tests.lab.longer import long_test
from tests.lab.training import LabRun, await_that, let_pass, program, settings, submit, workplace

pytestmark = pytest.mark.lab

WILLING = {
    # A long list of faults must not meet the time limit: near it a run saves, and is requeued.
    "resources": {"time": "60:00"},
    "launch": {"mpi": "none", "env": {"OMP_NUM_THREADS": "1", "OBEY_FAULTS": "1"}},
    "checkpoint": {"files": "step_*", "settle": "1s"},
    "progress": {"hang_after": "4s"},
    "recovery": {"min_nodes": 2, "max_attempts": 1000, "no_progress_limit": 1000},
}
QUIET_S = 8.0
OVER = frozenset({"cancel", "requeue"})
"""Faults that end the job."""

MUST_BE_SAID = frozenset({"straggler", "loss_nan", "supervisor_restarted", "taken_over", "agent_lost"})
"""What has to be heard of faults that do not stop the training; of the others something may be, or not."""

MAKEABLE = [fault for fault in CATALOGUE.values() if Need.GPU not in fault.needs]


def willing(lab: Cluster, name: str, nodes: int, *options: object, **more: Any) -> LabRun:
    """Submit a training that obeys until `enough` is told, and wait until it has two checkpoints."""
    work = workplace(lab, name, more.get("user"))
    command = program("willing", "--until", work / "enough", *options)
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
    run = LabRun(lab, lab.storage.from_outside(Path(answer["run_dir"])), work, answer["job_id"])
    run.wait("two checkpoints", lambda: len(run.durable()) > 1)
    return run


def excluded(run: LabRun) -> set[str]:
    """The nodes that were given up."""
    return {action["facts"]["excluded"] for action in run.actions("Say") if "excluded" in action.get("facts", {})}


def is_undisturbed(run: LabRun) -> bool:
    """Whether every rank ends with the weights that an undisturbed training has after as many steps."""
    ends = [path.read_text() for path in run.work.glob("final-*")]
    assert len(ends) == len(run.launches()[-1])
    step = int(ends[0].split()[2])
    return set(ends) == {f"final step {step} digest {digest(trained(step))}"}


class Strike:
    """One fault in one run, by the means of the lab, and what was there before it."""

    def __init__(self, run: LabRun, fault: Fault, *, avoid: Sequence[str] = ()) -> None:
        self.run, self.fault, self.paths = run, fault, RunPaths(run.root)
        self.means = LabMeans.of_lab(run.lab, self.paths, consent=True)
        self.truth = Truth(self.paths)
        self.attempts, self.said, self.given_up = len(run.restored_steps()), len(said(run)), excluded(run)
        saves = 0 if fault.name in ("die-in-save", "file-limit") else None
        wish = Wish(seed=sum(fault.name.encode()), avoid=avoid, rank=saves)
        target = choose(fault, self.paths, placing(self.paths), wish)
        self.done = inject(fault, target, self.means, self.truth)

    def heard(self) -> set[str]:
        """What was said since then, in one word each."""
        return {str(action.get("slug", "")) for action in said(self.run)[self.said :]}

    def follow(self) -> None:
        """Wait for what is right to follow while the fault lasts, and mend it."""
        run, fault = self.run, self.fault
        if fault.stops_training:
            run.wait("the next attempt", lambda: len(run.restored_steps()) > self.attempts)
        elif fault.causes & MUST_BE_SAID:
            run.wait(f"one of {sorted(fault.causes)}", lambda: self.heard() & fault.causes)
        else:
            let_pass(min(fault.lasts_s or QUIET_S, QUIET_S))
        mended = self.mend()
        assert (mended.undone_at is not None) == bool(fault.undo)
        assert mended in self.truth.read()
        newest = run.newest()
        run.wait("checkpoints go on", lambda: run.newest() > newest + 20, 60)

    def mend(self) -> Injection:
        """Undo it, once."""
        self.done = undo(self.done, self.means, self.truth)
        return self.done

    def wrong(self) -> str:
        """What was not right; empty: all was."""
        try:
            self.follow()
        except AssertionError as error:
            self.mend()
            return f"{self.fault.name}: {str(error).splitlines()[0]}; heard {sorted(self.heard())}"
        found, run, fault = [], self.run, self.fault
        if (fault.stops_training or fault.causes & MUST_BE_SAID) and not self.heard() & fault.causes:
            found.append(f"heard {sorted(self.heard())} instead of one of {sorted(fault.causes)}")
        lost = excluded(run) - self.given_up
        if bool(lost) != fault.costs_node:
            found.append(f"given up: {sorted(lost)}")
        if not fault.stops_training and len(run.restored_steps()) != self.attempts:
            found.append(f"another attempt: {sorted(self.heard())}")
        return f"{fault.name}: {'; '.join(found)}" if found else ""


def said(run: LabRun) -> list[dict[str, Any]]:
    """All that the core has said."""
    return run.actions("Say")


def finish(run: LabRun, *, right: bool = True) -> None:
    """End it well; the weights are right unless a bit of them was changed."""
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert is_undisturbed(run) == right
    await_that("nothing is left", lambda: not run.processes(), 60, run.story)


@pytest.mark.timeout(1200)
@long_test("every fault of the catalogue")
@pytest.mark.parametrize("quiet", [True, False], ids=["goes-on", "starts-again"])
def test_faults_that_cost_no_node(lab: Cluster, quiet: bool) -> None:
    """One after another in one run: each is called by its name, and the weights are right in the end.

    Of one in ten it may stay unknown who began it: where the ends of ranks that have lost a peer are heard first, all are
    stopped before that peer has said its last words.
    """
    elsewhere = (Where.STORAGE, Where.CHECKPOINT)
    faults = [fault for fault in MAKEABLE if not fault.costs_node and fault.where not in elsewhere]
    mine = [fault for fault in faults if fault.stops_training != quiet and fault.name not in OVER]
    run = willing(lab, "quiet" if quiet else "again", 4)
    wrong, slow, unknown = [], [], []
    for fault in (fault for fault in mine if fault.name != "bit-flip"):
        # A rank is called slow once, until it has been quick for a whole window of ten seconds.
        strike = Strike(run, fault, avoid=slow if "straggler" in fault.causes else ())
        slow += [strike.done.node] if "straggler" in fault.causes else []
        told = strike.wrong()
        (unknown if "'unknown'" in told and ";" not in told else wrong).append(told)
    assert list(filter(None, wrong)) == [], run.story()
    assert len(unknown) <= len(mine) // 10, unknown
    finish(run)


@pytest.mark.timeout(1200)
@long_test("every fault of the catalogue")
def test_a_damaged_checkpoint_is_refused(lab: Cluster) -> None:
    """In every way of damage: a rank that is killed begins with the checkpoint before it."""
    run = willing(lab, "damage", 2, "--every", 200)
    for fault in (fault for fault in MAKEABLE if fault.where is Where.CHECKPOINT):
        before, newest = len(run.restored_steps()), run.newest()
        run.wait("a fresh checkpoint", lambda newest=newest: run.newest() > newest)
        strike = Strike(run, fault)
        damaged = run.newest()
        run.processes("rank")[-1].send(signal.SIGKILL)
        run.wait("the next attempt", lambda before=before: len(run.restored_steps()) > before)
        assert run.restored_steps()[-1] < damaged, f"{fault.name}: {strike.done.note}"
        assert strike.heard() & fault.causes, f"{fault.name}: {sorted(strike.heard())}"
    finish(run)


@pytest.mark.timeout(1200)
@long_test("every fault of the catalogue")
def test_faults_of_storage(lab: Cluster) -> None:
    """The run waits until its storage is well again."""
    run = on_ill_storage(lab, "storage")
    wrong = [Strike(run, fault).wrong() for fault in MAKEABLE if fault.where is Where.STORAGE]
    assert list(filter(None, wrong)) == [], run.story()
    finish(run)
    lab.storage.detach()


@pytest.mark.timeout(1200)
@long_test("every fault of the catalogue")
@pytest.mark.parametrize("fault", [fault for fault in MAKEABLE if fault.costs_node], ids=lambda fault: fault.name)
def test_faults_that_cost_a_node(lab: Cluster, fault: Fault) -> None:
    """That node is given up, and no other."""
    run = willing(lab, fault.name, 4)
    strike = Strike(run, fault)
    assert strike.wrong() == "", run.story()
    hit = {each.node for each in strike.truth.read() if by_name(each.fault).costs_node and each.node}
    assert excluded(run) <= hit
    finish(run)


@pytest.mark.timeout(600)
@long_test("double faults at their third moment")
@pytest.mark.parametrize("name", ["kill-kill", "kill-supervisor", "kill-cut"])
def test_a_second_fault_while_the_checkpoint_is_loaded(lab: Cluster, name: str) -> None:
    """It strikes ranks that have been released and have not loaded yet; the weights are right in the end."""
    run = willing(lab, f"{name}-load", 4, "--load", 6)
    strike = Strike(run, double_at(by_name(name), Moment.LOAD))
    assert not any("loaded" in run.rank_log(1, rank) for rank in range(4)), run.story()
    assert strike.done.note.endswith("at load")
    # The attempt that was hit has been counted already; where the second fault stops it another one follows.
    strike.attempts += name != "kill-supervisor"
    assert strike.wrong() == "", run.story()
    finish(run)


@pytest.mark.timeout(1200)
@long_test("every fault of the catalogue")
def test_a_flipped_bit_is_seen_by_nobody_but_in_the_weights(lab: Cluster) -> None:
    """Silent corruption inside of a program: the catalogue says so."""
    run = willing(lab, "bit-flip", 2)
    assert Strike(run, by_name("bit-flip")).wrong() == "", run.story()
    finish(run, right=False)


@pytest.mark.timeout(1200)
@long_test("every fault of the catalogue")
@pytest.mark.parametrize("name", sorted(OVER))
def test_faults_that_end_the_job(lab: Cluster, name: str) -> None:
    """A job that is cancelled ends its run; one that is requeued goes on as another incarnation."""
    run = willing(lab, name, 2)
    Strike(run, by_name(name))
    if name == "cancel":
        run.wait("the end", run.end)
        end = run.end()
        assert end is not None
        assert end[0] == "cancelled"
        return
    # Slurm lets a requeued job wait for two minutes.
    run.wait("another incarnation", lambda: len(run.events("AllocationGranted")) > 1, 300)
    run.wait("training", lambda: len(run.restored_steps()) > 1)
    finish(run)


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
