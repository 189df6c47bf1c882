"""The MPI heartbeats on the lab: a second witness while they beat, no loss when they do not."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.longer import long_test
from tests.lab.training import LabRun, await_that, let_pass, patient, workplace

pytestmark = [pytest.mark.lab, pytest.mark.mpi]

MPICH = Path(sys.prefix, "mpich", "lib", "libmpi.so.12")
SRUN = """#!/bin/bash
# srun of a site without MPI.
if [ "$*" = --mpi=list ]; then printf 'MPI plugin types are...\\n\\tnone\\n'; exit; fi
exec REAL "$@"
"""


@pytest.fixture
def fabric(lab: Cluster) -> Iterator[Callable[[str, str], None]]:
    """A second network that joins the nodes beside the lab's own; `fabric("n3", "down")` pulls a cable of it."""
    pids = {row["name"]: str(row["pid"]) for row in lab.status()["nodes"] if row["name"] != "login"}
    bridge, ends = f"{lab.name[:8]}-fab", {node: f"{lab.name[:8]}-{node}f" for node in pids}
    ip("link", "add", bridge, "type", "bridge")
    try:
        ip("link", "set", bridge, "up")
        for number, (node, pid) in enumerate(pids.items(), 1):
            ip("link", "add", ends[node], "type", "veth", "peer", "name", "fab0", "netns", pid)
            ip("link", "set", ends[node], "master", bridge, "up")
            inside = ("nsenter", "-t", pid, "-n", "ip")
            subprocess.run([*inside, "addr", "add", f"192.168.77.{number}/24", "dev", "fab0"], check=True)
            subprocess.run([*inside, "link", "set", "fab0", "up"], check=True)
        yield lambda node, state: ip("link", "set", ends[node], state)
    finally:
        for name in (*ends.values(), bridge):
            subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def ip(*words: str) -> None:
    """Change a network interface of the real machine."""
    subprocess.run(["ip", *words], check=True)


def ups(run: LabRun) -> list[list[str]]:
    """The members of every ring that came up."""
    return [event["nodes"] for event in run.events("RingChanged") if event["state"] == "up"]


def test_ring_testifies_and_is_started_again(lab: Cluster) -> None:
    """A member is killed, a node is cut: each time a new ring comes up; the first costs no rank, the second one node."""
    run = patient(lab, name="ring", nodes=4, heartbeat={"profile": "fast"})
    run.wait("the ring is up", lambda: ups(run))
    ranks = {(proc.pid, proc.start) for proc in run.processes("rank")}

    member = run.only("ring", "n2")
    member.send(signal.SIGKILL)
    run.wait("another ring", lambda: len(ups(run)) == 2)
    assert {(proc.pid, proc.start) for proc in run.processes("rank")} == ranks
    assert "MPI heartbeats have ended" in run.said()

    lab.cut("n3")
    run.wait("a verdict", lambda: run.actions("FenceAttempt"))
    words = [word for event in run.events("NodeProbed") for word in event["findings"] if word["witness"] == "ring"]
    assert ("unreachable", True) in {(word["outcome"], "2 of 2 others are heard" in word["detail"]) for word in words}
    run.wait("a ring of those that are left", lambda: len(ups(run)) == 3)
    lab.heal("n3")
    assert ups(run) == [["n1", "n2", "n3", "n4"], ["n1", "n2", "n3", "n4"], ["n1", "n2", "n4"]]
    assert run.launches() == [("n1", "n2", "n3", "n4"), ("n1", "n2", "n4")]
    run.enough()
    assert run.wait_end() == ("finished", 0)
    await_that("nothing is left", lambda: not run.processes(), 30)


@long_test("the ring over Open MPI is tested above")
@pytest.mark.skipif(not MPICH.exists(), reason="no MPICH: scripts/setup installs its wheel into .venv/mpich")
def test_ring_over_mpich(lab: Cluster) -> None:
    """With MPICH in the place of Open MPI the ring comes up under another kind of srun's, and testifies against a cut node."""
    mpich = [f"--export=ALL,MPI4PY_LIBMPI={MPICH}"]
    run = patient(lab, name="mpich", nodes=3, heartbeat={"profile": "fast"}, options=mpich)
    run.wait("the ring is up", lambda: ups(run))
    assert "MPICH Version: 5" in run.said()
    assert "srun --mpi=pmi2" in run.said()
    lab.cut("n3")
    run.wait("a verdict", lambda: run.actions("FenceAttempt"))
    words = [word for event in run.events("NodeProbed") for word in event["findings"] if word["witness"] == "ring"]
    assert "unreachable" in {word["outcome"] for word in words}
    run.wait("a ring of those that are left", lambda: ups(run)[-1] == ["n1", "n2"])
    lab.heal("n3")
    run.enough()
    assert run.wait_end() == ("finished", 0)
    await_that("nothing is left", lambda: not run.processes(), 30)


def test_two_networks_and_either_alone_is_no_reason(lab: Cluster, fabric: Callable[[str, str], None]) -> None:
    """A node loses the fabric: it is told. It loses everything but the fabric: it stops nothing, and is not given up."""
    beat = {"profile": "fast", "deadman_after": "4s"}
    over_fabric = ["--export=ALL,OMPI_MCA_btl_tcp_if_include=fab0"]
    run = patient(lab, name="fabric", nodes=4, heartbeat=beat, options=over_fabric)
    run.wait("the ring is up", lambda: ups(run))
    ranks = {(proc.pid, proc.start) for proc in run.processes("rank")}

    fabric("n3", "down")
    run.wait("it is told", lambda: run.events("FabricSilent"))
    assert [event["node"] for event in run.events("FabricSilent")] == ["n3"]
    fabric("n3", "up")
    run.wait("this as well", lambda: run.events("FabricHeard"))
    assert not run.events("NodeSuspected")

    lab.cut("n3")
    let_pass(9)  # more than twice the dead man's time
    lab.heal("n3")
    run.wait("it is heard again", lambda: run.events("NodeHeard") or len(run.events("AgentUp")) > 4)
    assert "the ring still hears it" in run.said()
    assert {(proc.pid, proc.start) for proc in run.processes("rank")} == ranks
    assert len(run.launches()) == 1
    run.enough()
    assert run.wait_end() == ("finished", 0)


def test_site_without_mpi_is_told_so_once(lab: Cluster) -> None:
    """Its srun knows no kind of MPI: one sentence in the job's output, and the run goes on."""
    work = workplace(lab, "no-mpi", None)
    (work / "bin").mkdir()
    srun = work / "bin/srun"
    srun.write_text(SRUN.replace("REAL", shutil.which("srun") or ""))
    srun.chmod(0o755)
    run = patient(lab, name="no-mpi", nodes=2, first_on_path=work / "bin")
    text = "the run goes on without MPI heartbeats"
    run.wait("it is told", lambda: text in run.output())
    newest = run.newest()
    run.wait("checkpoints go on", lambda: run.newest() > newest)
    assert not run.processes("ring")
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert run.output().count(text) == 1
    assert "fits none of srun's kinds of MPI (none)" in run.output()
