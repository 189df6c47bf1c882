from __future__ import annotations

import os
import subprocess
import sys

import pytest

import ftslurm
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.machine import CommandTimedOut
from tests.lab.oracles import wait_until

FTSLURM = [sys.executable, "-m", "ftslurm"]
ALLREDUCE = """
from mpi4py import MPI
import socket
world = MPI.COMM_WORLD
print(socket.gethostname(), world.size, world.allreduce(world.rank), flush=True)
"""


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
