"""Ranks in containers on the lab: an image with an older Python and neither ftslurm nor its Python in it."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests.image import APPTAINER, make_image
from tests.lab.longer import long_test
from tests.lab.training import LabRun, await_that, submit, workplace
from tests.local_ranks import PROGRAMS

pytestmark = pytest.mark.lab


def boxed(lab: Cluster, name: str, nodes: int, *options: str, **more: Any) -> LabRun:
    """Submit the patient program in a container, and wait for a committed checkpoint."""
    work = workplace(lab, name, None)
    image = make_image(work / "image")
    binds = f"{{folders}},{PROGRAMS},{work},/scratch"
    command = [str(APPTAINER), "exec", *options, "--bind", binds, str(image)]
    launch = {"container": {"command": command, **more}}
    patient = ["python3", str(PROGRAMS / "until_told.py"), "--until", str(work / "enough")]
    run = submit(lab, patient, name=name, nodes=nodes, work=work, launch=launch)
    run.wait("a committed checkpoint", run.durable)
    return run


def test_a_container_that_cleans_its_environment_survives_a_killed_rank(lab: Cluster) -> None:
    """The program is killed inside; the next attempt gets its checkpoint, its place and its rank through --cleanenv."""
    run = boxed(lab, "box", 2, "--cleanenv")
    killed = next(proc for proc in run.processes("rank", attempt=0) if "until_told.py" in " ".join(proc.words))
    killed.send(signal.SIGKILL)
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    run.wait("both ranks", lambda: all("starts at step" in run.rank_log(1, rank) for rank in (0, 1)))
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert run.restored_steps()[1] >= 20
    assert f"starts at step {run.restored_steps()[1]}\n" in run.rank_log(1, 0)
    await_that("nothing is left", lambda: not run.processes(), 30)


@long_test("a cut node with containers, the wrapper outside and inside")
@pytest.mark.parametrize("wrapper", ["outside", "inside"])
def test_containers_survive_a_cut_node(lab: Cluster, wrapper: str) -> None:
    """Also by the container's own Python a rank ends itself where it is cut off, and the others go on without it."""
    run = boxed(lab, f"cut-{wrapper}", 3, wrapper=wrapper)
    lab.cut("n3")
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    assert run.launches()[1] == ("n1", "n2")
    await_that("the cut rank has ended", lambda: not run.processes("rank", "n3"), 60, run.story)
    lab.heal("n3")
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert run.restored_steps()[1] >= 20
