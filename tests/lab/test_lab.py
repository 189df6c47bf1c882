from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.lab import boot, layout, machine, prerequisites, process, view
from ftslurm.lab.assembly import Display
from ftslurm.lab.cluster import Cluster
from tests.lab.oracles import leftovers_of, pings, processes_of, wait_until

FTSLURM = [sys.executable, "-m", "ftslurm"]


def test_labs_have_networks_of_their_own() -> None:
    """Two names get two networks, one name always the same, and a routed network is left alone."""
    first = layout.subnet_candidates("dev")
    assert first == layout.subnet_candidates("dev")
    assert first[0] != layout.subnet_candidates("test")[0]
    taken = [f"{first[0]}.0/24", "default", "192.0.2.0/24"]
    assert layout.first_free(first, taken) == first[1]
    assert layout.first_free(first, ["10.0.0.0/8"]) is None


def test_every_machine_has_its_own_address() -> None:
    """No two machines of the largest lab share an address, and none is the host's."""
    spec = layout.LabSpec(node_count=layout.NODE_LIMIT, subnet="10.100.7")
    addresses = [spec.address(machine) for machine in spec.machines]
    assert len(set(addresses) | {spec.host_address}) == layout.NODE_LIMIT + 2
    assert len({spec.hardware_address(machine) for machine in spec.machines}) == layout.NODE_LIMIT + 1


def test_a_closed_folder_is_replaced_and_only_the_needed_tree_is_kept(tmp_path: Path) -> None:
    """A tree below a folder that only its owner may enter is kept, at its place, in a substitute of that folder."""
    closed = tmp_path / "closed"
    tree = closed / "a" / "venv"
    tree.mkdir(parents=True)
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp/"):  # pytest's own folders are closed too
            folder.chmod(0o755)
    closed.chmod(0o700)
    assert view.closed_ancestor(tree) == closed
    assert view.Mask(closed, (tree,)) in view.masks([tree])
    closed.chmod(0o755)
    assert view.closed_ancestor(tree) is None


def test_boot_scripts_quote_what_they_are_given() -> None:
    """A path with a space and a shell metacharacter stays one word."""
    assert boot.lines([["mount", "--bind", Path("/a b;c"), "/d"]]) == "mount --bind '/a b;c' /d\n"


def test_a_process_id_alone_names_nobody() -> None:
    """The same id with another start time is another process, and is never signalled."""
    mine = process.read_stat(os.getpid())
    assert mine is not None
    assert process.ProcessRef(os.getpid(), mine[0]).is_alive()
    stranger = process.ProcessRef(os.getpid(), mine[0] + 1)
    assert not stranger.is_alive()
    assert not stranger.send(signal.SIGKILL)
    assert process.ProcessRef.parse("12 ") is None


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any program on the machine, one error lists them and the hint installs their packages."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prerequisites, "SBIN", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ServiceUnavailable) as caught:
        prerequisites.require()
    assert "slurmctld" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "mariadb-server" in caught.value.hint


def test_an_ordinary_user_is_told_to_use_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root there is one clear error, not a half-built lab."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="needs root"):
        Cluster("never").up(2)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "é", "x" * 41])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    """A lab's name becomes a folder and part of an interface's name."""
    with pytest.raises(UsageError, match="cannot be called"):
        Cluster(name)


@pytest.mark.lab
def test_up_and_down_twice_leaves_nothing(other: Cluster) -> None:
    """After `down` no process, mount, interface or cgroup of the lab is left, and it can come up again."""
    job_ids, counted = [], []
    other = Cluster(other.name, display=Display(count=lambda *done: counted.append(done)))
    for _ in range(2):
        other.up(2)
        assert {(0, 3), (1, 3), (2, 3), (2, 2)} <= set(counted)
        assert [node["slurm"] for node in other.status()["nodes"]] == ["idle", "idle"]
        done = other.login(["srun", "-N2", "printenv", "SLURM_JOB_ID"])
        job_ids.append(done.stdout.split()[0])
        (other.shared / "kept").touch()
        assert len(processes_of(other.name)) > 5
        other.down()
        assert leftovers_of(other.name) == []
        assert other.status() == {"name": other.name, "up": False, "nodes": []}
    assert (other.shared / "kept").exists()
    assert job_ids[0] != job_ids[1], "a job id must not name two jobs in one shared folder"


@pytest.mark.lab
def test_up_is_repeatable_but_not_with_another_size(lab: Cluster) -> None:
    """`up` of a running lab changes nothing; with another size it is refused."""
    before = [node["pid"] for node in lab.status()["nodes"]]
    lab.up(4)
    assert [node["pid"] for node in lab.status()["nodes"]] == before
    with pytest.raises(UsageError, match="already up with 4 nodes"):
        lab.up(3)


@pytest.mark.lab
@pytest.mark.parametrize("stage", ["login", "n2", "idle"])
def test_a_killed_up_is_cleaned_by_the_next(other: Cluster, stage: str) -> None:
    """SIGKILL of `lab up` at any stage leaves nothing that the next `up` does not end."""
    command = [*FTSLURM, "lab", "up", "-n", "2", "--name", other.name]
    registration = other.layout.machine("n2" if stage == "idle" else stage) / "init.pid"
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(registration.exists, 30, f"{stage} did not register")
        if stage == "idle":
            wait_until((registration.parent / "booted").exists, 30, "n2 did not boot")
    finally:
        child.kill()
        child.wait(timeout=10)
    old = set(processes_of(other.name))
    assert old
    other.up(2)
    assert not old & set(processes_of(other.name))
    assert other.login(["srun", "-N2", "true"]).returncode == 0


@pytest.mark.lab
def test_a_lab_whose_processes_were_killed_comes_up_again(other: Cluster) -> None:
    """SIGKILL of some machines from outside is a state like any other for the next `up`."""
    other.up(2)
    for node in ("n1", "login"):
        pid = int((other.layout.machine(node) / "init.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
    other.layout.state.write_text('{"torn')
    other.up(2)
    assert other.login(["srun", "-N2", "true"]).returncode == 0


@pytest.mark.lab
def test_an_interrupted_up_leaves_nothing(other: Cluster) -> None:
    """Ctrl-C in the middle of `up` ends in a clean machine and exit code 130."""
    child = subprocess.Popen([*FTSLURM, "lab", "up", "-n", "2", "--name", other.name], stderr=subprocess.DEVNULL)
    wait_until((other.layout.machine("n1") / "init.pid").exists, 30, "n1 did not register")
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=30) == 130
    assert leftovers_of(other.name) == []


@pytest.mark.lab
def test_eight_nodes_beside_another_lab(lab: Cluster, other: Cluster) -> None:
    """A lab of eight nodes works, and two labs do not see each other."""
    other.up(8)
    done = other.login(["srun", "-N8", "-n8", "hostname"])
    assert sorted(done.stdout.split()) == sorted(f"n{number}" for number in range(1, 9))
    assert not pings(lab, "n1", other.spec.address("n1"))
    assert sorted(lab.login(["srun", "-N4", "hostname"]).stdout.split()) == ["n1", "n2", "n3", "n4"]


def test_a_machine_that_does_not_boot_gets_a_second_try(other: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that crashes while the lab comes up costs some seconds, and leaves nothing behind."""
    wait_for, waits = machine.wait_for, []

    def fails_once(booting: machine.Machine, path: Path) -> None:
        waits.append(path)
        if len(waits) == 2:
            raise machine.DidNotBoot("the login host did not boot")
        wait_for(booting, path)

    monkeypatch.setattr(machine, "wait_for", fails_once)
    other.up(1)
    assert other.status()["up"]
