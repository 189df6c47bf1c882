from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.lab import boot, layout, prerequisites, process, view
from ftslurm.lab.cluster import Cluster, lab_root
from ftslurm.lab.machine import CommandTimedOut, Who
from ftslurm.lab.passthrough import Fault
from ftslurm.lab.storage import Storage

FTSLURM = [sys.executable, "-m", "ftslurm"]
ALLREDUCE = """
from mpi4py import MPI
import socket
world = MPI.COMM_WORLD
print(socket.gethostname(), world.size, world.allreduce(world.rank), flush=True)
"""


def processes_of(name: str) -> list[int]:
    """Every live process that was started with this lab's slurm.conf in its environment: an oracle of its own."""
    mark = f"{lab_root() / name}/etc/slurm.conf".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                belongs = mark in (entry / "environ").read_bytes()
                ended = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
            except OSError:
                continue
            if belongs and not ended:
                found.append(int(entry.name))
    return found


def leftovers_of(name: str) -> list[str]:
    """All that a lab could leave: processes, mounts, interfaces, cgroups."""
    links = subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True, timeout=10).stdout
    interface = layout.LabSpec(name=name).host_interface
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    groups = Path("/sys/fs/cgroup").glob(f"*/ftslurm-lab.{name}.*")
    return [
        *(f"process {pid}" for pid in processes_of(name)),
        *(line for line in mounts if f"/{name}/" in line),
        *(link["ifname"] for link in json.loads(links) if link["ifname"] == interface),
        *map(str, groups),
    ]


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until `condition` holds, or fail."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def other(lab_name: str) -> Iterator[Cluster]:
    """A second lab, not yet up, beside the session's one; gone afterwards."""
    cluster = Cluster(f"{lab_name}-other")
    cluster.down(purge=True)
    yield cluster
    cluster.down(purge=True)
    assert leftovers_of(cluster.name) == []


def pings(cluster: Cluster, source: str, target: str) -> bool:
    """One ICMP echo with one second of patience."""
    return cluster.exec(source, ["ping", "-c1", "-W1", target], timeout=10).returncode == 0


# --- without a lab --------------------------------------------------------------------------------------------------


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


# --- up and down ----------------------------------------------------------------------------------------------------


@pytest.mark.lab
def test_up_and_down_twice_leaves_nothing(other: Cluster) -> None:
    """After `down` no process, mount, interface or cgroup of the lab is left, and it can come up again."""
    job_ids = []
    for _ in range(2):
        other.up(2)
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
@pytest.mark.parametrize("stage", ["login", "n1", "n2", "idle"])
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


# --- what a node is -------------------------------------------------------------------------------------------------


@pytest.mark.lab
def test_exec_passes_output_and_exit_code(lab: Cluster) -> None:
    """`exec` runs in the node's namespaces and its exit code comes back, from Python and from the command line."""
    done = lab.exec("n2", ["bash", "-c", "hostname; cat; echo oops >&2; exit 7"])
    assert (done.returncode, done.stdout, done.stderr) == (7, "n2\n", "oops\n")
    command = [*FTSLURM, "lab", "exec", "n3", "--name", lab.name, "--", "bash", "-c", "hostname; exit 9"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (shown.returncode, shown.stdout) == (9, "n3\n")


@pytest.mark.lab
def test_a_command_that_hangs_is_ended_with_its_children(lab: Cluster) -> None:
    """After a time-out nothing of the command runs on in the node."""
    with pytest.raises(CommandTimedOut, match="no answer within 1 s"):
        lab.exec("n2", ["bash", "-c", "sleep 4711 & sleep 4711"], timeout=1)
    assert "4711" not in lab.exec("n2", ["ps", "-ef"]).stdout


@pytest.mark.lab
def test_nodes_share_what_they_should_and_nothing_else(lab: Cluster) -> None:
    """/tmp, /scratch and /dev/shm are each node's own and open to all; the shared folder is everybody's."""
    for place in ("/tmp", "/scratch", "/dev/shm", str(lab.shared)):
        seen = lab.exec("n1", ["stat", "-c", "%a", place])
        assert seen.stdout.strip() == "1777", place
        lab.exec("n1", ["touch", f"{place}/mark"], user=lab.user)
        found = lab.exec("n2", ["test", "-e", f"{place}/mark"], user=lab.user).returncode == 0
        assert found == (place == str(lab.shared)), place
    assert (lab.scratch("n1") / "mark").exists()
    assert (lab.shared / "mark").stat().st_uid == lab.uid


@pytest.mark.lab
@pytest.mark.parametrize("user", ["root", "ftlab"])
def test_ssh_between_machines_asks_nothing(lab: Cluster, user: str) -> None:
    """With strict host keys and no terminal, ssh and rsync work from node to node for both users."""
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    done = lab.exec("n1", [*ssh, "n2", "hostname; id -un; sinfo -h -o %D"], user=user)
    assert done.stdout.split() == ["n2", user, "4"], done.stderr
    copied = lab.exec("n3", ["rsync", "/etc/hosts", "login:/dev/shm/hosts"], user=user)
    assert copied.returncode == 0, copied.stderr
    lab.login(["rm", "/dev/shm/hosts"], user=user)


@pytest.mark.lab
def test_the_ordinary_user_runs_this_project_on_every_node(lab: Cluster) -> None:
    """An unprivileged user's job step reaches this very interpreter and package, wherever they lie."""
    program = "import ftslurm, os, sys; print(os.getuid(), sys.executable, ftslurm.__file__)"
    done = lab.login(["srun", "-N4", sys.executable, "-c", program], user=lab.user)
    import ftslurm

    assert done.stdout.splitlines() == [f"{lab.uid} {sys.executable} {ftslurm.__file__}"] * 4, done.stderr
    hidden = lab.login(["ls", "/root"], user=lab.user)
    assert "ftslurm" not in hidden.stdout
    assert lab.login(["scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=x"], user=lab.user).returncode != 0


@pytest.mark.lab
def test_slurm_accounts_jobs_and_hands_out_gpus(lab: Cluster) -> None:
    """Accounting knows the user's job, and the scheduler gives posing GPUs out by number."""
    done = lab.login(["srun", "-N1", "--gpus-per-node=3", "printenv", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"], lab.user)
    assert done.returncode == 0, done.stderr
    devices, job_id = done.stdout.split()
    assert devices == "0,1,2"

    def accounted() -> bool:
        rows = lab.login(["sacct", "-X", "-n", "-P", "-o", "user,account,state", "-j", job_id]).stdout
        return rows.strip() == f"{lab.user}|lab|COMPLETED"

    wait_until(accounted, 20, "the job did not appear in the accounting")


@pytest.mark.lab
def test_slurm_commands_work_from_outside_with_slurm_conf(lab: Cluster) -> None:
    """A root shell on the real machine reaches the lab by SLURM_CONF alone, also with job steps."""
    environment = {**os.environ, "SLURM_CONF": str(lab.slurm_conf)}
    command = ["srun", "-N2", "hostname"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert sorted(done.stdout.split()) == ["n1", "n2"], done.stderr


@pytest.mark.lab
def test_steps_overlap_and_survive_a_lost_node(lab: Cluster) -> None:
    """A second step starts beside one that holds all CPUs and memory, also while a node of the job is cut."""
    script = lab.shared / "overlap.sh"
    script.write_text(
        "#!/bin/bash\n"
        "srun --overlap --no-kill -N4 -n4 --ntasks-per-node=1 -o /dev/null sleep 60 &\n"
        "srun --overlap -N4 -n16 --ntasks-per-node=4 true && touch first\n"
        "while [ ! -e cut ]; do sleep 0.1; done\n"
        "srun --overlap --no-kill -w n1,n2,n3 -N3 -n6 --ntasks-per-node=2 true && touch second\n"
        "scancel $SLURM_JOB_ID\n"
    )
    folder = lab.shared / "overlap"
    folder.mkdir()
    folder.chmod(0o777)
    submit = ["sbatch", "--no-kill", "-N4", "--ntasks-per-node=8", "-D", str(folder), str(script)]
    assert lab.login(submit, user=lab.user).returncode == 0
    wait_until((folder / "first").exists, 30, "no step beside the holding one")
    lab.cut("n4")
    (folder / "cut").touch()
    wait_until((folder / "second").exists, 30, "no step on the survivors")


# --- faults ---------------------------------------------------------------------------------------------------------


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


# --- storage that fails ---------------------------------------------------------------------------------------------


@pytest.fixture
def storage(lab: Cluster) -> Iterator[Storage]:
    """The lab's ill storage, attached and well."""
    pytest.importorskip("mfusepy")
    lab.storage.attach()
    yield lab.storage
    lab.storage.restore()
    lab.storage.detach()


@pytest.mark.lab
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault.OVER_QUOTA, "Disk quota exceeded"),
        (Fault.FULL, "No space left on device"),
        (Fault.READ_ONLY, "Read-only file system"),
        (Fault.BROKEN, "Input/output error"),
        (Fault.STALE, "Stale file handle"),
    ],
)
def test_storage_fails_as_it_is_told(lab: Cluster, storage: Storage, fault: Fault, message: str) -> None:
    """A write fails with the fault's own errno on every node, and works again after the fault is taken away."""
    path = storage.path / "file"
    write = ["bash", "-c", f"echo new >> {path}"]
    assert lab.exec("n1", write, user=lab.user).returncode == 0
    before = (storage.backing / "file").read_text()
    storage.fail(fault)
    failed = lab.exec("n2", write, user=lab.user)
    assert failed.returncode != 0
    assert message in failed.stderr
    assert (storage.backing / "file").read_text() == before
    read = lab.exec("n3", ["cat", str(path)], user=lab.user)
    assert (read.returncode == 0) == (fault not in {Fault.BROKEN, Fault.STALE})
    storage.restore()
    assert lab.exec("n2", write, user=lab.user).returncode == 0
    assert (storage.backing / "file").stat().st_uid == lab.uid


@pytest.mark.lab
def test_frozen_storage_blocks_and_goes_on(lab: Cluster, storage: Storage) -> None:
    """Frozen: every call waits, also a killed one. Thawed: the call that waited has succeeded."""
    path = storage.path / "frozen"
    storage.freeze()
    waiting = lab.popen("n1", ["touch", str(path)], Who(user=lab.user))
    with pytest.raises(CommandTimedOut):
        lab.exec("n2", ["ls", str(storage.path)], timeout=1)
    assert waiting.poll() is None
    assert lab.login(["srun", "-N4", "true"], timeout=20).returncode == 0
    storage.thaw()
    assert waiting.wait(timeout=10) == 0
    assert (storage.backing / "frozen").exists()


@pytest.mark.lab
def test_a_node_can_be_killed_while_it_waits_for_storage(lab: Cluster, storage: Storage) -> None:
    """A process in uninterruptible sleep keeps neither `kill` nor `start` nor a later step from working."""
    storage.freeze()
    waiting = lab.popen("n1", ["touch", str(storage.path / "x")])
    wait_until(lambda: " D" in lab.exec("n1", ["ps", "-e", "-o", "comm,stat"]).stdout, 10, "it does not wait")
    lab.kill("n1")
    assert not pings(lab, "n2", "n1")
    lab.start("n1")
    assert lab.exec("n1", ["hostname"]).stdout == "n1\n"
    storage.thaw()
    waiting.wait(timeout=10)
    assert lab.exec("n1", ["stat", "-f", "-c", "%T", str(storage.path)]).stdout.strip().startswith("fuse")


@pytest.mark.lab
def test_a_lab_goes_down_with_frozen_storage(other: Cluster) -> None:
    """`down` needs no healthy storage: processes that wait for it end with it."""
    pytest.importorskip("mfusepy")
    other.up(1)
    other.storage.attach()
    other.storage.freeze()
    waiting = other.popen("n1", ["ls", str(other.storage.path)])
    other.down()
    waiting.wait(timeout=10)
    assert leftovers_of(other.name) == []


@pytest.mark.lab
def test_storage_that_is_not_attached_cannot_fail(lab: Cluster) -> None:
    """A fault of storage that is not there is an error with the command that attaches it."""
    with pytest.raises(ServiceUnavailable, match="not attached"):
        lab.storage.fail(Fault.FULL)


# --- MPI ------------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@pytest.mark.mpi
@pytest.mark.parametrize("user", ["root", "ftlab"])
def test_one_mpi_world_over_four_nodes(lab: Cluster, user: str) -> None:
    """`srun --mpi=pmix` and `mpirun` inside a job each make one world of eight ranks, beside another step."""
    pytest.importorskip("mpi4py")
    program = lab.shared / "allreduce.py"
    program.write_text(ALLREDUCE)
    folder = lab.shared / f"mpi-{user}"
    folder.mkdir()
    folder.chmod(0o777)
    script = folder / "job.sh"
    script.write_text(
        "#!/bin/bash\n"
        f"export OPAL_PREFIX={sys.prefix} OMPI_MCA_btl=^ofi SLURM_OVERLAP=1\n"
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n"
        "srun --overlap -N4 -n4 --ntasks-per-node=1 -o /dev/null sleep 60 &\n"
        f"srun --mpi=pmix -N4 -n8 --ntasks-per-node=2 {sys.executable} {program} > srun.txt 2>&1\n"
        f"mpirun -n 8 --map-by ppr:2:node {sys.executable} {program} > mpirun.txt 2>&1\n"
        "touch done\nscancel $SLURM_JOB_ID\n"
    )
    submit = ["sbatch", "-N4", "--ntasks-per-node=2", "-D", str(folder), str(script)]
    assert lab.login(submit, user=user).returncode == 0
    wait_until((folder / "done").exists, 60, "the job did not end")
    expected = sorted(f"n{node} 8 28" for node in (1, 2, 3, 4) for _ in range(2))
    assert sorted((folder / "srun.txt").read_text().splitlines()) == expected
    assert sorted((folder / "mpirun.txt").read_text().splitlines()) == expected
