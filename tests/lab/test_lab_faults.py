from __future__ import annotations

import os
import signal

import pytest

from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.machine import CommandTimedOut, Who
from tests.lab.oracles import pings, wait_until


@pytest.mark.lab
def test_a_cut_node_is_silent_and_a_healed_one_is_back(lab: Cluster) -> None:
    """Cut: neither an answer nor a refusal, in both directions. Healed: at once as before."""
    assert pings(lab, "n1", "n2")
    lab.cut("n2")
    assert not pings(lab, "n1", "n2")
    assert not pings(lab, "n2", "n1")
    with pytest.raises(CommandTimedOut):  # silence, not "connection refused" and not "no route"
        lab.exec("n1", ["bash", "-c", "exec 3<>/dev/tcp/n2/22"], timeout=1.5)
    assert [node["link"] for node in lab.status()["nodes"]] == ["up", "down", "up", "up"]
    lab.heal("n2")
    wait_until(lambda: pings(lab, "n1", "n2"), 5, "n2 did not come back")  # ARP asks again once a second
    assert lab.login(["srun", "-N4", "true"], timeout=30).returncode == 0


@pytest.mark.lab
def test_a_killed_node_loses_its_processes_and_comes_back(lab: Cluster) -> None:
    """Killed: nothing of it runs. Started: empty /tmp, the old /scratch, and Slurm uses it again."""
    lab.exec("n3", ["touch", "/tmp/lost", "/scratch/kept"])
    running = lab.popen("n3", ["sleep", "4712"], Who(user=lab.user))
    lab.kill("n3")
    assert running.wait(timeout=10) != 0
    assert not pings(lab, "n1", "n3")
    assert lab.status()["nodes"][2]["power"] == "off"
    with pytest.raises(ServiceUnavailable, match="switched off"):
        lab.exec("n3", ["true"])
    lab.start("n3")
    assert lab.exec("n3", ["test", "-e", "/scratch/kept"]).returncode == 0
    assert lab.exec("n3", ["ls", "/tmp"]).stdout == ""
    lab.wait_idle(30)
    assert lab.login(["srun", "-N4", "true"], timeout=30).returncode == 0


@pytest.mark.lab
def test_a_frozen_node_answers_ping_but_not_slurm(lab: Cluster) -> None:
    """Frozen: the kernel answers ping and TCP, srun hangs. Thawed: its processes go on where they were."""
    counter = lab.shared / "counter"
    child = lab.popen("n2", ["bash", "-c", f"while :; do echo x >> {counter}; sleep 0.05; done"])
    try:
        wait_until(counter.exists, 10, "the program did not start")
        lab.freeze("n2")
        size = counter.stat().st_size
        assert pings(lab, "n1", "n2")
        assert lab.exec("n1", ["bash", "-c", "exec 3<>/dev/tcp/n2/22"], timeout=5).returncode == 0
        with pytest.raises(CommandTimedOut):
            lab.login(["srun", "--immediate=1", "-w", "n2", "true"], timeout=2)
        assert counter.stat().st_size == size
        assert lab.status()["nodes"][1]["power"] == "frozen"
        lab.thaw("n2")
        wait_until(lambda: counter.stat().st_size > size, 10, "the program did not go on")
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait(timeout=10)


@pytest.mark.lab
def test_a_frozen_slurmctld_hangs_its_clients_only(lab: Cluster) -> None:
    """Commands hang while slurmctld is stopped, running steps do not notice, and a thaw or restart mends it."""
    started, frozen, ended = (lab.shared / f"{mark}-ctld" for mark in ("started", "frozen", "ended"))
    program = f"touch {started}; until [ -e {frozen} ]; do sleep 0.05; done; touch {ended}"
    step = lab.popen("login", ["srun", "-N1", "bash", "-c", program])
    wait_until(started.exists, 10, "the step did not start")
    lab.freeze("slurmctld")
    with pytest.raises(CommandTimedOut):
        lab.login(["sinfo"], timeout=1)
    frozen.touch()
    wait_until(ended.exists, 10, "the step did not go on")
    lab.thaw("slurmctld")
    assert step.wait(timeout=20) == 0
    lab.kill("slurmctld")
    lab.start("slurmctld")
    assert lab.login(["sinfo", "-h"], timeout=20).returncode == 0


@pytest.mark.lab
def test_an_unknown_node_is_refused(lab: Cluster) -> None:
    """A mistyped node is an error that names those that exist."""
    with pytest.raises(UsageError, match="no node 'n9'") as caught:
        lab.cut("n9")
    assert "n1, n2, n3, n4" in caught.value.hint
