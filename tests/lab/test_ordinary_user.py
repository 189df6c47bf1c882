"""What an ordinary user does: no rights on nodes, private folders, scripts of their own with `ftslurm run` for srun."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.training import ddp, program, script, workplace

pytestmark = pytest.mark.lab

UNSHARED = 0o077


def exposed(folder: Path, uid: int) -> list[str]:
    """Everything below a folder, itself included, that is not the user's or that others may look into.

    The job's output is Slurm's own file, made with the user's umask.
    """
    found = []
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink() and not path.match("logs/job-*.out"):
            about = path.stat()
            if about.st_uid != uid or stat.S_IMODE(about.st_mode) & UNSHARED:
                found.append(f"{path} {stat.filemode(about.st_mode)} {about.st_uid}")
    return found


def test_users_run_loses_a_node(lab: Cluster) -> None:
    """Without any rights a user's run survives a cut node, and what it leaves on disks is the user's alone."""
    run = ddp(lab, name="users", nodes=3, steps=400, user=lab.user)
    run.wait("a committed checkpoint", lambda: run.durable() and run.step_of(0) > 25)
    lab.cut("n2")
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    assert run.launches()[1] == ("n1", "n3")
    assert all(Path(f"/proc/{proc.pid}").stat().st_uid == lab.uid for proc in run.processes())
    lab.heal("n2")
    assert run.wait_end() == ("finished", 0)
    assert run.wait_job() == ("COMPLETED", "0:0")
    assert run.restored_steps()[1] >= 20
    assert "that is 2 or 1 ranks instead of 3" in run.output()
    assert len(run.done()) == 2
    assert len(set(run.done())) == 1
    assert exposed(run.root, lab.uid) == []
    places = [
        place for node in lab.nodes[:3] for place in lab.scratch(node).glob("ftslurm-*") if str(lab.uid) in place.name
    ]
    assert len(places) == 3
    assert [path for place in places for path in exposed(place, lab.uid)] == []


# ------------------------------------------------------------------------------------------- `ftslurm run` for srun

TWO_CALLS = """
export FTSLURM_NO_KILL=1
ftslurm run --nodes=2 --ntasks-per-node=1 --mpi=none {calm}
echo "first $?"
ftslurm run -N2 -n2 -- {crash}
echo "second $?"
ftslurm run --run-dir "$(readlink -f runs/by-job/$SLURM_JOB_ID)"
echo "again $?"
"""


def test_two_calls_in_a_script_are_two_runs(lab: Cluster) -> None:
    """In a user's script `ftslurm run` stands for srun; each call is a run of its own, and a finished one returns at once."""
    crash = " ".join(program("crash", "--steps", 20, "--rank", 1, "--at", 3, "--how", "exit:9"))
    text = TWO_CALLS.format(calm=f"{crash} --rank 99", crash=crash)
    job = script(lab, text, "--nodes=2", "--ntasks-per-node=1", "--no-kill", name="calls", user=lab.user)
    job.wait("end of the script", lambda: "again" in job.output())
    first, second = job.runs()
    assert first.end() == ("finished", 0)
    assert second.end() == ("failed", 9)
    said = [line for line in job.output().splitlines() if line.startswith(("first ", "second ", "again "))]
    assert said == ["first 0", "second 9", "again 9"]
    assert "already ended" in job.output()
    assert len(first.launches()) == 1
    assert len(second.launches()) == 2


def test_run_in_salloc(lab: Cluster) -> None:
    """From a shell of salloc's, on a host outside of the allocation, a crashed rank is replaced as in a batch job."""
    work = workplace(lab, "salloc", lab.user)
    crash = program("crash", "--steps", 20, "--rank", 1, "--marker", work / "marker")
    salloc = ["salloc", "--nodes=2", "--no-kill", "--quiet", "ftslurm", "run", "--ntasks-per-node=1", "--", *crash]
    environ = {"FTSLURM_NO_KILL": "1", "FTSLURM_RUN_ROOT": str(work / "runs")}
    done = lab.exec("n4", salloc, user=lab.user, timeout=120, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 0 done at step 20" in done.stdout.partition("---- output of rank 0, attempt 1 ----\n")[2]
    assert len(list(work.glob("runs/*/logs/1/rank-*.log"))) == 2


def test_job_without_no_kill_is_requeued(lab: Cluster) -> None:
    """A job that Slurm would end with its node says so on its first line, and a lost node means other nodes, not fewer."""
    text = f"export FTSLURM_RUN_ROOT=$PWD/runs\nftslurm run -- {' '.join(program('until_told', '--until', 'enough'))}\n"
    job = script(lab, text, "--nodes=3", "--ntasks-per-node=1", name="requeue", user=lab.user)
    job.wait("the ranks", lambda: job.runs() and job.runs()[0].restored_steps())
    assert "--no-kill" in "".join(job.output().splitlines()[:2])
    (run,) = job.runs()
    lab.cut("n3")
    run.wait("a requeue", lambda: run.actions("Requeue"))
    lab.heal("n3")
    run.wait("the condemned node is excluded", lambda: "ExcNodeList=n3 " in job.about(), 30)
    # Otherwise Slurm waits two minutes; the node is well again, and would be taken.
    run.wait("a new start", lambda: "JobState=PENDING" in job.about(), 60)
    lab.login(["scontrol", "update", f"JobId={job.job}", "StartTime=now"], user=lab.user, timeout=30)
    run.wait("the next incarnation", lambda: len(run.restored_steps()) == 2)
    assert run.launches() == [("n1", "n2", "n3"), ("n1", "n2", "n4")]
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert job.runs() == [run]
