"""How a run leaves its job: time limit, requeue, cancellation, and what comes after it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from ftslurm.lab.storage import Fault
from tests.lab.longer import long_test
from tests.lab.training import LabRun, await_that, ddp, let_pass, patient, program, settings, submit, workplace

pytestmark = pytest.mark.lab

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "charlm" / "train.py"


def hurry(run: LabRun) -> None:
    """Start the requeued job now, as its owner may once it is pending, and wait until it runs."""

    def started() -> bool:
        state, _ = run.job_says()
        if state == "PENDING":
            run.lab.login(["scontrol", "update", f"JobId={run.job}", "StartTime=now"], timeout=30)
        return state == "RUNNING" and len(run.events("AllocationGranted")) > 1

    await_that("the requeued job runs", started, 150, run.story)


def test_the_time_limit_is_a_save_and_a_requeue(lab: Cluster) -> None:
    """Before the time limit the program is asked to save; the job is requeued and goes on from exactly that step."""
    work = workplace(lab, "limit", None)
    command = [sys.executable, str(EXAMPLE), "--steps", "1000000", "--every", "1000000"]
    run = submit(
        lab,
        command,
        name="limit",
        nodes=2,
        work=work,
        resources={"time": "2:00"},
        checkpoint={"save_on": "signal:TERM", "grace": "30s", "resume_args": ["--resume", "{checkpoint}"]},
    )
    run.wait("the warning", lambda: run.events("StopRequested"))
    run.wait("a committed save", run.durable)
    hurry(run)
    run.wait("the second attempt", lambda: len(run.restored_steps()) == 2)
    assert run.restored_steps() == [0, run.newest()]
    assert run.newest() > 0
    assert run.events("StopRequested")[0]["why"] == "time_limit"


def test_fewer_nodes_than_allowed_is_a_requeue_without_the_lost_one(lab: Cluster) -> None:
    """Below min_nodes the job goes back to the queue, asks for as many other nodes, and never gets the lost one again."""
    run = ddp(lab, name="toofew", nodes=3, steps=1_000_000, recovery={"min_nodes": 3})
    run.wait("a committed checkpoint", run.durable)
    (first,) = run.launches()
    lost = first[-1]
    lab.cut(lost)
    run.wait("the requeue", lambda: run.actions("Requeue"))
    await_that("the exclusion", lambda: f"ExcNodeList={lost} " in _job(run), 60, run.story)
    assert "NumNodes=3" in _job(run) or run.job_says()[0] != "PENDING"
    lab.heal(lost)
    hurry(run)
    run.wait("the second attempt", lambda: len(run.restored_steps()) == 2)
    assert lost not in run.launches()[1]
    assert len(run.launches()[1]) == 3
    assert run.restored_steps()[1] >= 20


def _job(run: LabRun) -> str:
    return run.lab.login(["scontrol", "show", "job", "-o", run.job], timeout=30).stdout


def test_a_cancelled_run_leaves_nothing_and_can_be_resumed(lab: Cluster) -> None:
    """After a cancellation no process is left; a resume goes on from the last checkpoint; a run that lives is refused."""
    run = ddp(lab, name="cancelled", nodes=2, steps=1_000_000)
    run.wait("a committed checkpoint", run.durable)

    alive = lab.login(["ftslurm", "resume", str(run.root)], timeout=60)
    assert alive.returncode == 75, alive.stderr
    assert run.job in alive.stderr

    done = lab.login(["ftslurm", "cancel", str(run.root)], timeout=60)
    assert done.returncode == 0, done.stderr
    assert run.wait_end() == ("cancelled", 143)
    await_that("no process is left", lambda: not run.processes(), 30, run.story)
    newest = run.newest()

    again = lab.login(["ftslurm", "resume", str(run.root), "--json"], timeout=60)
    assert again.returncode == 0, again.stderr
    resumed = LabRun(lab, run.root, run.work, str(json.loads(again.stdout)["job_id"]))
    await_that("the resumed attempt", lambda: len(resumed.restored_steps()) == 2, 120, resumed.story)
    assert resumed.restored_steps()[1] == newest


@pytest.mark.timeout(420)
@pytest.mark.parametrize("frozen_s", [30, pytest.param(120, marks=long_test("two minutes"))])
def test_shared_storage_that_hangs_and_then_is_full_costs_nothing(lab: Cluster, frozen_s: int) -> None:
    """With shared storage frozen for longer than any dead-man switch, then over quota, no rank is killed, nothing lost."""
    storage = lab.storage
    storage.attach()
    outside = workplace(lab, "hang", None)
    inside = storage.path / outside.name
    lab.login(["mkdir", "-m", "700", str(inside)], timeout=30)
    config = settings("hang", program("ddp_counter", "--steps", 1_000_000, "--progress", outside / "progress"), 2, {})
    (outside / "config.yaml").write_text(json.dumps(config))
    argv = ["ftslurm", "submit", str(outside / "config.yaml"), "--json", "--run-root", str(inside / "runs")]
    answer = json.loads(lab.login(argv, timeout=60).stdout)
    run = LabRun(lab, Path(answer["run_dir"]), outside, answer["job_id"])
    # What lies below the storage can be read while it hangs.
    seen = LabRun(lab, storage.backing / inside.name / "runs" / run.run_id, outside, run.job)
    seen.wait("a committed checkpoint", seen.durable)
    ranks = {(proc.pid, proc.start) for proc in run.processes("rank")}
    before = seen.step_of(0)

    storage.freeze()
    let_pass(frozen_s)
    storage.thaw()
    storage.fail(Fault.OVER_QUOTA)
    let_pass(8)
    during = seen.step_of(0)
    storage.restore()
    newest = seen.newest()
    seen.wait("checkpoints go on", lambda: seen.newest() > max(newest, before))

    assert {(proc.pid, proc.start) for proc in run.processes("rank")} == ranks
    assert during > before + 100
    assert len(seen.launches()) == 1
    numbers = [record["n"] for record in seen.records()]
    assert numbers == list(range(len(numbers)))
    assert "shared storage" in seen.output()
    lab.login(["scancel", run.job], timeout=30)
    seen.wait_end()
    storage.detach()


def test_checkpoints_travel_by_rsync_and_the_last_ones_stay(lab: Cluster) -> None:
    """With drain: rsync and a further copy on another host, the newest checkpoints arrive whole and old ones go.

    What tells of the training's state is copied there as well.
    """
    copy = workplace(lab, "copy", None)
    away: dict[str, Any] = {
        "checkpoint": {"drain": "rsync", "keep_last": 2, "drain_to": f"n2:{copy}/data"},
        "state": {"sync": {"to": f"n2:{copy}/state", "every": "1s"}},
    }
    run = patient(lab, name="rsync", nodes=2, **away)
    run.wait("several checkpoints", lambda: len(run.events("GenerationDurable")) >= 5)
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert len(run.durable()) <= 2
    verified = lab.login(["ftslurm", "checkpoint", "verify", str(run.root)], timeout=60)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert [path for path in (copy / "data").rglob("*") if path.is_file() and path.stat().st_size > 0]
    histories = list(run.root.glob("history/*.jsonl"))
    assert histories
    for path in (*histories, run.root / "config.yaml"):
        assert (copy / "state" / path.relative_to(run.root.parent)).read_bytes() == path.read_bytes()
    assert "cannot be copied to" not in run.said()
    shutil.rmtree(copy)
