"""Both launchers, with a program of each kind: MPI (mpi4py) and torch.distributed; and worlds that are not the planned ones."""

from __future__ import annotations

import re
import shutil
import signal
from typing import Any

import numpy as np
import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.training import MPI_ENV, LabRun, await_that, ddp, program, submit, workplace

pytestmark = pytest.mark.lab

STEPS = 200
RESOURCES = {"nodes": 2, "ranks_per_node": 2}


def ring(lab: Cluster, name: str, launch: dict[str, Any], user: str | None = None) -> LabRun:
    """Submit the MPI program on two nodes with two ranks each."""
    work = workplace(lab, name, user)
    command = program("mpi_ring", "--steps", STEPS, "--ranks", 4, "--progress", work / "progress")
    saved = {"files": "step_*.npz", "resume_args": ["--resume", "{checkpoint}"]}
    launch = {"env": MPI_ENV, **launch}
    return submit(
        lab, command, name=name, nodes=2, user=user, work=work, resources=RESOURCES, launch=launch, checkpoint=saved
    )


def expected_value() -> float:
    """The sum over the MPI program's state at its end, from the definition of its steps alone."""
    return float(sum(np.sin(np.arange(1024) + step).sum() for step in range(STEPS)))


def test_both_launchers_recover(lab: Cluster) -> None:
    """Under srun and under mpirun, of root and of an ordinary user, a killed rank is replaced and the result is right."""
    by_mpirun = {"launcher": "mpirun"}
    runs = [
        ring(lab, "mpirun-mpi", by_mpirun),
        ring(lab, "srun-mpi", {"launcher": "srun", "mpi": "pmix"}, lab.user),
        ddp(lab, name="mpirun-ddp", nodes=2, steps=STEPS, user=lab.user, resources=RESOURCES, launch=by_mpirun),
    ]
    for run in runs:
        run.wait("a committed checkpoint", run.durable)
        ranks = [proc for proc in run.processes("rank", attempt=0) if proc.rank == 3]
        assert ranks[0].node == "n2"
        ranks[0].send(signal.SIGKILL)
    for run in runs:
        assert run.wait_end(180) == ("finished", 0)
        assert run.wait_job() == ("COMPLETED", "0:0")
        assert len(run.launches()) == 2
        assert run.restored_steps()[1] > 0
        await_that("nothing is left", lambda run=run: not run.processes(), 30)
    for run in runs[:2]:
        (value,) = re.findall(rf"final step {STEPS} value (\S+) ranks 4", run.rank_log(1, 0))
        assert float(value) == pytest.approx(expected_value(), abs=1e-6)
    assert len(set(runs[2].done())) == 1
    assert len(runs[2].done()) == 4


SRUN = r"""#!/bin/bash
# srun, but ranks after the first attempt's go to a node that the plan has left out.
words=()
for word; do
  case $* in *--job-name=ftslurm-[1-9]*) word=${word/--nodelist=n\[1-2\]/--nodelist=n[1,3]} ;; esac
  words+=("$word")
done
exec REAL "${words[@]}"
"""


def test_wrong_world_never_trains(lab: Cluster) -> None:
    """A launcher that brings up another world than the planned one is refused, with a reason, before any program starts."""
    work = workplace(lab, "world", None)
    dump = program("env_dump", work / "dumps", "--linger", 600)
    fewer = submit(lab, dump, name="fewer", nodes=2, launch={"srun": ["--ntasks=1"]})
    more = submit(
        lab, dump, name="more", nodes=2, launch={"srun": ["--ntasks=4", "--ntasks-per-node=2", "--overcommit"]}
    )
    for run, count in ((fewer, 1), (more, 4)):
        assert run.wait_end() == ("failed", 1)
        assert f"{count} ranks came up where 2 were planned" in run.output()
    assert not (work / "dumps").exists()


def test_ranks_on_an_excluded_node_never_train(lab: Cluster) -> None:
    """Ranks that come up on a node that was given up, however well it is again, are refused before any program starts."""
    work = workplace(lab, "excluded", None)
    (work / "bin").mkdir()
    srun = work / "bin/srun"
    srun.write_text(SRUN.replace("REAL", shutil.which("srun") or ""))
    srun.chmod(0o755)
    dump = program("env_dump", work / "dumps", "--linger", 600)
    run = submit(lab, dump, name="excluded", nodes=3, work=work, first_on_path=work / "bin")
    run.wait("three ranks", lambda: len(list((work / "dumps").glob("*.json"))) == 3)
    lab.cut("n3")
    run.wait("a verdict", lambda: run.actions("FenceAttempt"))
    lab.heal("n3")
    assert run.wait_end() == ("failed", 1)
    assert set(run.launches()[1:]) == {("n1", "n2")}
    assert "ranks sit on excluded nodes: n3" in run.output()
    assert {path.name.partition("-rank")[0] for path in (work / "dumps").iterdir()} == {"attempt-0"}
