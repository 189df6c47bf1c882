"""What an ordinary user does: no rights on nodes, private folders, scripts of their own with `ftslurm run` for srun."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.training import LabRun, await_that, ddp, let_pass, program, runs_in, script

pytestmark = pytest.mark.lab

UNSHARED = 0o077


def exposed(folder: Path, uid: int) -> list[str]:
    """Everything below a folder, itself included, that is not the user's or that others may look into."""
    found = []
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            about = path.stat()
            if about.st_uid != uid or stat.S_IMODE(about.st_mode) & UNSHARED:
                found.append(f"{path} {stat.filemode(about.st_mode)} {about.st_uid}")
    return found


def test_users_run_loses_a_node(lab: Cluster) -> None:
    """Without any rights a user's run survives a cut node, and what it leaves on disks is the user's alone."""
    run = ddp(lab, name="users", nodes=3, steps=160, user=lab.user)
    run.wait("a committed checkpoint", lambda: run.durable() and run.step_of(0) > 25)
    lab.cut("n2")
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    assert run.launches()[1] == ("n1", "n3")
    assert all(Path(f"/proc/{proc.pid}").stat().st_uid == lab.uid for proc in run.processes())
    lab.heal("n2")
    assert run.wait_end() == ("finished", 0)
    assert run.wait_job() == ("COMPLETED", "0:0")
    assert run.restored_steps()[1] >= 20
    assert len(run.done()) == 2
    assert len(set(run.done())) == 1
    assert exposed(run.root, lab.uid) == []
    for node in lab.nodes[:3]:
        (place,) = lab.scratch(node).glob("ftslurm-*")
        assert exposed(place, lab.uid) == []
