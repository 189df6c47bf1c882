"""Shared storage that hangs, is over quota, or answers everything with an I/O error, while a training of the library saves."""

from __future__ import annotations

import json

import pytest

from ftslurm.lab.cluster import Cluster
from ftslurm.lab.storage import Fault
from tests.lab.library import right_digest
from tests.lab.longer import long_test
from tests.lab.training import LabRun, let_pass, program, settings, workplace

pytestmark = [pytest.mark.lab, pytest.mark.timeout(420)]

STEPS = 500


def on_ill_storage(lab: Cluster, name: str) -> LabRun:
    """Submit the loop with its run's folder on the storage that can fail; what is returned sees what lies below it."""
    storage = lab.storage
    storage.attach()
    outside = workplace(lab, name, None)
    inside = storage.path / outside.name
    lab.login(["mkdir", "-m", "700", str(inside)], timeout=30)
    command = program("library_loop", "--steps", STEPS, "--pace", 0.1, "--progress", outside / "progress")
    saved = {"layout": "library", "every": {"steps": 20}, "min_interval": "1s"}
    (outside / "config.yaml").write_text(json.dumps(settings(name, command, 2, {"checkpoint": saved})))
    argv = ["ftslurm", "submit", str(outside / "config.yaml"), "--json", "--run-root", str(inside / "runs")]
    done = lab.login(argv, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    run_id = answer["run_dir"].rpartition("/")[2]
    return LabRun(lab, storage.backing / inside.name / "runs" / run_id, outside, answer["job_id"])


def suffer(run: LabRun, fault: Fault | None) -> None:
    """Let the storage fail (None: hang) until several saves have been made meanwhile, then make it well."""
    storage = run.lab.storage
    if fault is None:
        storage.freeze()
    else:
        storage.fail(fault)
    before, committed = run.step_of(0), run.durable()
    let_pass(7)
    run.wait("training goes on", lambda: run.step_of(0) >= before + 40)
    assert run.durable()[-1] == committed[-1] or fault is None  # a request that was in the kernel before it hung
    storage.restore()
    run.wait("a new durable checkpoint", lambda: int(run.durable()[-1].split("-")[0]) > before)


@long_test("shared storage hangs and is full in test_endings.py")
def test_sick_storage_is_ridden_out(lab: Cluster) -> None:
    """No rank stops, what was committed stays, the story tells each illness, and checkpoints become durable again."""
    run = on_ill_storage(lab, "ill")
    run.wait("a committed checkpoint", run.durable)
    ranks = {(proc.pid, proc.start) for proc in run.processes("rank")}
    for fault in (None, Fault.OVER_QUOTA, Fault.BROKEN):
        suffer(run, fault)
        assert {(proc.pid, proc.start) for proc in run.processes("rank")} == ranks
    assert run.wait_end(240) == ("finished", 0)
    assert set(run.done()) == {right_digest(STEPS)}
    assert len(run.launches()) == 1
    stalls = [event.get("error", "") for event in run.events("StorageStalled") if event["for_s"]]
    assert len(stalls) == 3
    assert "quota" in stalls[1]
    assert "Input/output" in stalls[2]
    assert run.said().count("shared storage answers again") == 3
    assert [record["n"] for record in run.records()] == list(range(len(run.records())))
    lab.storage.detach()
