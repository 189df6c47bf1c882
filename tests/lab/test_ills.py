"""What ails a run without ending it for good: memory, slow ranks, bad losses, wrong results, clocks that jump."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.test_hangs import beating
from tests.lab.training import LabRun, let_pass, patient, program, submit, workplace

pytestmark = pytest.mark.lab

CLOCK = Path(__file__).parents[1] / "data" / "clock" / "wrong_clock.c"
GPU_MEMORY = """
import os, time
import torch
time.sleep(2)
if os.environ["FTSLURM_ATTEMPT"] == "0" and os.environ["RANK"] == "1":
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB")
"""
PYTHON = """#!/bin/bash
# A Python on whose GPU n3 computes wrongly.
case "$*" in
*computetest.py*)
  [ "$SLURMD_NODENAME" = n3 ] && echo '[{"device": "gpu0", "wrong": 3}]' || echo '[]'
  exit ;;
esac
exec REAL "$@"
"""


def causes(run: LabRun) -> set[str]:
    """The classes of what has ended attempts, and of what was only told."""
    return {str(action.get("slug", "")) for action in run.actions("Say")}


def excluded(run: LabRun) -> set[str]:
    """The nodes that were given up."""
    return {action["facts"]["excluded"] for action in run.actions("Say") if "excluded" in action.get("facts", {})}


def misfortune(lab: Cluster, way: str) -> LabRun:
    """Submit a program that goes this way once, and is through in its second attempt."""
    return submit(lab, program("misfortune", "--ways", way), name=way.replace("_", "-"), nodes=2)


def test_ills_of_the_program_blame_no_node(lab: Cluster) -> None:
    """Memory, a full disk, a loss that is no number, a slow rank: each is called by its name, on the same nodes."""
    rollback: dict[str, Any] = {"progress": {"on_nan": "rollback", "hang_after": "none"}}
    slow = beating(lab, "slow", 3, "--slow", 0.3)
    nan = beating(lab, "nan", 2, "--nan-at", 240, **rollback)
    nan.wait("the loss is no number", lambda: nan.events("LossAlarm"))
    nan.wait("the attempt after it", lambda: len(nan.restored_steps()) == 2)

    work = workplace(lab, "gpu-memory", None)
    (work / "train.py").write_text(GPU_MEMORY)
    ended = {
        "oom_gpu": submit(lab, [sys.executable, str(work / "train.py")], name="gpu-memory", nodes=2, work=work),
        "oom_host": misfortune(lab, "memory_error"),
        "storage": misfortune(lab, "torch_save_full"),
    }
    for cause, run in ended.items():
        assert run.wait_end() == ("finished", 0)
        assert cause in causes(run), run.said()
        assert run.launches() == [("n1", "n2")] * 2

    assert 20 <= nan.restored_steps()[1] < 240
    assert all(int(action["generation"].split("-")[0]) >= 240 for action in nan.actions("Quarantine"))
    assert nan.launches() == [("n1", "n2")] * 2
    slow.wait("the slow rank is named", lambda: "straggler" in causes(slow))
    assert "rank 1 on n2 is slow" in slow.said()
    assert len(slow.launches()) == 1
    for run in (nan, slow):
        run.enough()
        assert run.wait_end() == ("finished", 0)
    assert not any(map(excluded, (nan, slow, *ended.values())))


def test_node_that_computes_wrongly_is_left_out(lab: Cluster) -> None:
    """A known product comes out wrong on one node's GPU: the training goes on without that node."""
    work = workplace(lab, "wrong", None)
    (work / "bin").mkdir()
    python = work / "bin/python3"
    python.write_text(PYTHON.replace("REAL", sys.executable))
    python.chmod(0o755)
    command = [str(python), *program("until_told", "--until", work / "enough")[1:]]
    run = submit(lab, command, name="wrong", nodes=4, work=work, resources={"gpus_per_node": 8})
    run.wait("training without n3", lambda: run.restored_steps() and "n3" not in run.launches()[-1])
    assert "n3: compute_wrong of gpu0 is 3" in run.said()
    run.wait("n3 is given up", lambda: excluded(run) == {"n3"})
    run.wait("checkpoints", run.durable)
    run.enough()
    assert run.wait_end() == ("finished", 0)


def test_clocks_that_jump_decide_nothing(lab: Cluster) -> None:
    """Two nodes' wall clocks jump by hours, the supervisor's among them: nothing follows, and a cut is found as ever."""
    library = lab.shared / "wrong_clock.so"
    subprocess.run(
        ["cc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, CLOCK], check=True, timeout=60
    )
    for node in lab.nodes:
        (lab.scratch(node) / "clock").write_text("0")
    exported = [f"--export=ALL,LD_PRELOAD={library},WRONG_CLOCK=/scratch/clock"]
    run = patient(lab, name="clocks", nodes=3, options=exported, probes={"interval": "1s"})
    host = run.events("AllocationGranted")[0]["batch_host"]
    ranks = {(proc.pid, proc.start) for proc in run.processes("rank")}
    (lab.scratch(host) / "clock").write_text("7200")
    (lab.scratch("n2") / "clock").write_text("-7200")
    run.wait("it is told", lambda: "n2: clock_offset is" in run.said())
    newest = run.newest()
    run.wait("checkpoints go on", lambda: run.newest() > newest + 60)
    (lab.scratch(host) / "clock").write_text("-3600")
    newest = run.newest()
    run.wait("and on", lambda: run.newest() > newest + 60)
    assert {(proc.pid, proc.start) for proc in run.processes("rank")} == ranks
    assert not run.actions("FenceAttempt")
    jumps = [after["t"] - before["t"] for before, after in itertools.pairwise(run.records())]
    assert max(jumps) > 7000
    assert min(jumps) < -7000

    lab.cut("n3")
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2, 20)
    assert run.launches()[1] == ("n1", "n2")
    assert excluded(run) == {"n3"}
    (victim,) = run.processes("rank", "n2", attempt=1)
    victim.send(signal.SIGKILL)
    run.wait("one more", lambda: len(run.restored_steps()) == 3, 20)
    newest = run.newest()
    run.wait("checkpoints after it", lambda: run.newest() > newest)
    lab.heal("n3")
    run.enough()
    assert run.wait_end() == ("finished", 0)


def test_bad_network_costs_nobody_and_a_one_way_street_one(lab: Cluster) -> None:
    """Loss and jitter cost no node and no rank; a node that no packet reaches, though its own still go out, is left out alone."""
    run = patient(lab, name="network", nodes=4)
    ranks = {(proc.pid, proc.start) for proc in run.processes("rank")}
    lab.slow("n2", delay_ms=500, jitter_ms=500, loss_percent=20)
    let_pass(12)
    lab.slow("n2")
    assert {(proc.pid, proc.start) for proc in run.processes("rank")} == ranks
    assert not excluded(run)
    let_pass(5)

    lab.slow("n3", loss_percent=100)
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2, 90)
    assert run.launches() == [("n1", "n2", "n3", "n4"), ("n1", "n2", "n4")]
    assert excluded(run) == {"n3"}
    lab.slow("n3")
    run.enough()
    assert run.wait_end() == ("finished", 0)
