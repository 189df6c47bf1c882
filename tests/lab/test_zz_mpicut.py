import pytest

from tests.lab.training import *

pytestmark = pytest.mark.lab


def test_mpirun_cut(lab):
    work = workplace(lab, "m", lab.user)
    command = program("mpi_ring", "--steps", 300, "--progress", work / "progress")
    run = submit(
        lab,
        command,
        name="mpicut",
        nodes=3,
        user=lab.user,
        work=work,
        resources={"nodes": 3, "ranks_per_node": 2},
        launch={"env": MPI_ENV, "launcher": "mpirun"},
        checkpoint={"files": "step_*.npz", "resume_args": ["--resume", "{checkpoint}"]},
    )
    run.wait("a committed checkpoint", run.durable)
    lab.cut("n3")
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    print(run.story())
    run.wait("old dead", lambda: not run.processes(node="n3", kind="rank"))
    lab.heal("n3")
    assert run.wait_end() == ("finished", 0)
    print(run.story())
    print(run.wait_job())
    await_that("nothing", lambda: not run.processes(), 30)
