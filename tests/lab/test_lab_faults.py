from __future__ import annotations

import os
import random
import signal

import pytest

from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.machine import CommandTimedOut, Who
from ftslurm.lab.relay import Cable
from ftslurm.lab.slowness import LinkQuality
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
    assert lab.exec("n3", ["test", "-e", "/tmp/lost"]).returncode == 1
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


@pytest.mark.lab
def test_a_slow_link_delays_and_loses_in_one_direction_only(lab: Cluster) -> None:
    """Packets to the slow node wait or vanish, those between others do not, and a restored link is good."""

    def echo(source: str, target: str) -> tuple[int, float]:
        command = ["ping", "-q", "-c20", "-i0.02", "-W1", target]
        lines = lab.exec(source, command, timeout=30).stdout.splitlines()
        received = int(lines[-2].split(" received")[0].split()[-1])
        return received, float(lines[-1].split("=")[1].split("/")[0])

    lab.slow("n2", delay_ms=80)
    received, fastest_ms = echo("n1", "n2")
    assert received == 20
    assert fastest_ms >= 80
    assert echo("n1", "n3")[1] < 80
    lab.slow("n2", loss_percent=50)
    assert 1 <= echo("n1", "n2")[0] <= 19
    lab.restore()
    received, fastest_ms = echo("n1", "n2")
    assert received == 20
    assert fastest_ms < 80


@pytest.mark.lab
def test_a_slow_node_can_be_cut_killed_and_started(lab: Cluster) -> None:
    """Faults add up: a slow link can be cut and healed, and a node that is started again has a good one."""
    lab.slow("n2", delay_ms=1)
    lab.cut("n2")
    assert not pings(lab, "n1", "n2")
    lab.heal("n2")
    wait_until(lambda: pings(lab, "n1", "n2"), 5, "n2 did not come back")
    lab.kill("n2")
    lab.start("n2")
    wait_until(lambda: pings(lab, "n1", "n2"), 5, "n2 did not come back")
    assert "relay" not in lab.login(["ps", "-ef"]).stdout


@pytest.mark.parametrize("quality", [{"delay_ms": -1}, {"loss_percent": 101}, {"loss_percent": -1}])
def test_an_impossible_link_is_refused(quality: dict[str, float]) -> None:
    """A negative delay or a loss of more than everything is a mistake."""
    with pytest.raises(UsageError, match="cannot be like this"):
        LinkQuality(**quality)


def test_the_relay_loses_and_delays_what_it_is_told() -> None:
    """Over many frames the loss is near its share, and no delay leaves its range."""
    chance = random.Random(7)
    cable = Cable(delay_s=0.05, jitter_s=0.02, loss=0.25)
    fates = [cable.fate(chance) for _ in range(4000)]
    kept = [fate for fate in fates if fate is not None]
    assert 0.7 < len(kept) / len(fates) < 0.8
    assert 0.03 <= min(kept) < 0.035
    assert 0.065 < max(kept) <= 0.07
