"""The batch host is lost in every way there is, and the run is not: another node takes over, and one supervisor acts."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from ftslurm.lab.storage import Fault
from tests.lab import epochs
from tests.lab.longer import long_test
from tests.lab.test_recovery import loss_of, state_of
from tests.lab.training import LabRun, await_that, ddp, let_pass, patient, program, settings, workplace
from tests.local_ranks import PROGRAMS, run_ranks

pytestmark = [pytest.mark.lab, pytest.mark.timeout(420)]

BATCH = "n1"
STEPS = 240
long_way = long_test("one of the longer ways to lose a host")


def start_soon(run: LabRun, state: str) -> None:
    """Start a requeued job soon: each time that it is asked for, the start is put off again.

    22.05 holds a requeued job whose launch has failed ("Job credential revoked", seen on a busy machine); its owner may
    release it.
    """
    if state != "PENDING":
        return
    if "launch_failed_requeued_held" in about(run) or "JobHeld" in about(run):
        run.lab.login(["scontrol", "release", run.job], timeout=30)
    run.lab.login(["scontrol", "update", f"JobId={run.job}", "StartTime=now+5"], timeout=30)
    until = time.monotonic() + 45
    while run.job_says()[0] == "PENDING" and time.monotonic() < until:
        time.sleep(1)


def completes(run: LabRun) -> None:
    """The job completes, started soon after a requeue, as its owner may; and nobody has acted beside another."""

    def completed() -> bool:
        state, _ = run.job_says()
        start_soon(run, state)
        return state not in {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}

    await_that("the end of the job", completed, 240, lambda: f"{about(run)}\n{run.story()}")
    assert run.job_says() == ("COMPLETED", "0:0")
    assert epochs.problems(run.root) == []


def about(run: LabRun) -> str:
    """What Slurm says of the job."""
    return run.lab.login(["scontrol", "show", "job", "-o", run.job], timeout=30).stdout


def taken_over(run: LabRun, count: int = 1) -> None:
    """Wait until another node acts."""
    run.wait("a takeover", lambda: len(takeovers(run)) >= count)


def takeovers(run: LabRun) -> list[str]:
    """The hosts that have taken over."""
    return [event["host"] for event in run.events("AllocationGranted") if event.get("takeover")]


def ends(run: LabRun) -> None:
    """Wait until the run is complete; its allocation ends soon after, and not before."""

    def end() -> bool:
        state, ended = run.job_says()[0], run.end()
        assert ended or state == "RUNNING"
        return ended is not None

    await_that("end of the run", end, 120, run.story)
    assert run.end() == ("finished", 0)
    await_that("the allocation ends", lambda: run.job_says()[0] != "RUNNING", 10, run.story)


def finish(run: LabRun) -> None:
    """Let the patient program end; the run must be complete, and so must its job."""
    run.enough()
    ends(run)
    for node in run.lab.nodes:
        run.lab.heal(node)
    completes(run)


def restored_step(run: LabRun, attempt: int) -> int:
    """The training step that an attempt began with."""
    return next(action["step"] for action in run.actions("ReleaseRanks") if action["attempt"] == attempt)


def goes_on(run: LabRun) -> None:
    """Wait for a further checkpoint."""
    newest = run.newest()
    run.wait("checkpoints go on", lambda: run.newest() > newest)


def identities(run: LabRun, kind: str) -> set[tuple[int, int]]:
    """Process id and start time, which together are never used twice."""
    return {(proc.pid, proc.start) for proc in run.processes(kind)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The loss in the end of a run that nothing has happened to, outside of the lab and without ftslurm."""
    folder = tmp_path_factory.mktemp("undisturbed")
    argv = [PROGRAMS / "ddp_counter.py", "--steps", STEPS, "--every", 20, "--pace", 0]
    assert set(run_ranks([*argv, "--checkpoints", folder], 4, folder / "logs").codes) == {0}
    return loss_of(state_of(folder, STEPS), STEPS)


def lose_batch_host(run: LabRun, lose: Callable[[str], object], undisturbed: float) -> None:
    """Lose the batch host in the middle of a run; the others end it with the weights that it would have had."""
    run.wait("a committed checkpoint", lambda: run.durable() and run.step_of(0) > 25)
    begun = time.monotonic()
    lose(BATCH)
    run.wait_step(1, 0)
    print(f"batch host lost -> first new step: {time.monotonic() - begun:.1f} s")
    assert run.launches()[1] == ("n2", "n3", "n4")
    assert restored_step(run, 1) >= 20
    ends(run)
    assert loss_of(state_of(run.root / "checkpoints", STEPS), STEPS) == pytest.approx(undisturbed, rel=1e-5)


def test_cut_batch_host(lab: Cluster, undisturbed: float) -> None:
    """The script's host falls silent: another node goes on without it, to the right weights; the job completes."""
    run = ddp(lab, name="cut-host", nodes=4, steps=STEPS)
    lose_batch_host(run, lab.cut, undisturbed)
    await_that("the cut node's ranks are gone", lambda: not run.processes("rank", BATCH), story=run.story)
    lab.heal(BATCH)
    completes(run)
    assert len(takeovers(run)) == 1


@long_way
def test_killed_batch_host(lab: Cluster, undisturbed: float) -> None:
    """The same when the host loses its power."""
    run = ddp(lab, name="killed-host", nodes=4, steps=STEPS)
    lose_batch_host(run, lab.kill, undisturbed)
    lab.start(BATCH)
    completes(run)


@long_test("a batch host is cut above, a supervisor stopped")
def test_frozen_batch_host_wakes_up(lab: Cluster) -> None:
    """A host that stood still wakes up to a run that others supervise: its supervisor parks, its ranks end."""
    run = patient(lab, name="frozen-host", nodes=4)
    lab.freeze(BATCH)
    taken_over(run)
    run.wait("checkpoints of the next attempt", lambda: run.durable()[-1].endswith("-0001"))
    assert run.launches()[1] == ("n2", "n3", "n4")
    lab.thaw(BATCH)
    run.wait("its ranks are gone", lambda: not run.processes("rank", BATCH))
    run.wait("its supervisor is gone", lambda: not run.processes("supervisor", BATCH))
    goes_on(run)
    finish(run)


@long_way
def test_batch_host_cut_and_healed(lab: Cluster) -> None:
    """The old script never returns while the run goes on elsewhere: Slurm would end the job with it."""
    run = patient(lab, name="healed-host", nodes=4)
    lab.cut(BATCH)
    taken_over(run)
    run.wait("checkpoints of the next attempt", lambda: run.durable()[-1].endswith("-0001"))
    lab.heal(BATCH)
    let_pass(10)
    assert run.job_says()[0] == "RUNNING"
    run.wait("its ranks are gone", lambda: not run.processes("rank", BATCH))
    goes_on(run)
    finish(run)


@long_way
def test_two_of_four_nodes_at_once(lab: Cluster) -> None:
    """Half of the nodes go, the batch host among them: the other half goes on."""
    run = patient(lab, name="half", nodes=4)
    lab.cut(BATCH)
    lab.cut("n3")
    taken_over(run)
    run.wait("checkpoints on the others", lambda: not run.durable()[-1].endswith("-0000"), 180)
    assert run.launches()[-1] == ("n2", "n4")
    finish(run)


def test_stopped_supervisor_is_replaced(lab: Cluster) -> None:
    """Parent killed, then the supervisor stopped for 20 s: training goes on, nobody is left out, one supervisor acts."""
    run = patient(lab, name="stopped", nodes=4)
    ranks = identities(run, "rank")
    parent = run.only("parent")
    before = identities(run, "supervisor")
    parent.send(signal.SIGKILL)
    run.wait(
        "a new supervisor", lambda: identities(run, "supervisor") - before and len(run.events("AllocationGranted")) > 1
    )
    goes_on(run)
    stopped = run.only("supervisor")
    stopped.send(signal.SIGSTOP)
    let_pass(20)
    stopped.send(signal.SIGCONT)
    taken_over(run)
    run.wait(
        "the old one is gone", lambda: not [each for each in run.processes("supervisor") if each.pid == stopped.pid]
    )
    goes_on(run)
    assert identities(run, "rank") == ranks
    assert len(run.launches()) == 1
    assert run.job_says()[0] == "RUNNING"
    finish(run)


@long_way
def test_stopped_parent_and_killed_supervisor(lab: Cluster) -> None:
    """Neither is there for 20 s: another node takes over; the parent, woken, waits for the end of the run."""
    run = patient(lab, name="both", nodes=3)
    ranks = identities(run, "rank")
    parent, supervisor = run.only("parent"), run.only("supervisor")
    parent.send(signal.SIGSTOP)
    supervisor.send(signal.SIGKILL)
    let_pass(20)
    taken_over(run)
    parent.send(signal.SIGCONT)
    goes_on(run)
    assert identities(run, "rank") == ranks
    assert len(run.launches()) == 1
    finish(run)


@long_way
def test_requeue_while_a_node_is_cut(lab: Cluster) -> None:
    """An administrator requeues the job while a node is cut off: what is left there claims nothing and ends."""
    run = patient(lab, name="requeued", nodes=3)
    lab.cut("n3")
    done = lab.login(["scontrol", "requeue", run.job], timeout=30)
    assert done.returncode == 0, done.stderr
    await_that("the cut node's ranks are gone", lambda: not run.processes("rank", "n3"), 60, run.story)

    def started() -> bool:
        state, _ = run.job_says()
        start_soon(run, state)
        return len(run.events("AllocationGranted")) > 1

    lab.heal("n3")
    await_that("the new incarnation", started, 150, run.story)
    run.wait("checkpoints of a later attempt", lambda: not run.durable()[-1].endswith("-0000"))
    assert takeovers(run) == []
    finish(run)


@long_way
@pytest.mark.parametrize("way", ["auto", "chain:2"])
def test_without_quorum_the_run_goes_on_as_configured(lab: Cluster, way: str) -> None:
    """Neither the other node answers nor storage takes a write: the job is requeued, or the next of its chain begins."""
    storage = lab.storage
    storage.attach()
    outside = workplace(lab, "quorum", None)
    inside = storage.path / outside.name
    lab.login(["mkdir", "-m", "700", str(inside)], timeout=30)
    command = program("until_told", "--until", outside / "enough")
    more = {"heartbeat": {"no_quorum_after": "20s"}, "recovery": {"continue": way}}
    config = settings("quorum", command, 2, more)
    (outside / "config.yaml").write_text(json.dumps(config))
    argv = ["ftslurm", "submit", str(outside / "config.yaml"), "--json", "--run-root", str(inside / "runs")]
    answer = json.loads(lab.login(argv, timeout=60).stdout)
    run_id = Path(answer["run_dir"]).name
    # What lies below the storage can be read while it hangs.
    run = LabRun(lab, storage.backing / inside.name / "runs" / run_id, outside, answer["job_id"])
    run.wait("a committed checkpoint", run.durable)
    newest = run.newest()

    storage.fail(Fault.OVER_QUOTA)
    lab.cut("n2")
    left = "Restarts=1" if way == "auto" else "JobState=CANCELLED|JobState=COMPLETING"
    await_that("the job has left", lambda: re.search(left, about(run)), 90, run.story)
    if way != "auto":
        assert "Restarts=0" in about(run)
        run = replace(run, job=answer["job_ids"][1])
    storage.restore()
    lab.heal("n2")

    def started() -> bool:
        start_soon(run, run.job_says()[0])
        return len(run.events("AllocationGranted")) > 1

    await_that("the new incarnation", started, 150, run.story)
    run.wait("checkpoints of a later attempt", lambda: not run.durable()[-1].endswith("-0000"))
    assert takeovers(run) == []
    assert run.newest() >= newest
    finish(run)
    storage.detach()
