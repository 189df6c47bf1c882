"""One lab of four nodes for the whole session, whole and idle again before each test that uses it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator

import pytest

from ftslurm.errors import FtslurmError, ServiceUnavailable
from ftslurm.lab import prerequisites
from ftslurm.lab.cluster import Cluster, lab_root
from tests.lab.oracles import drained_for_tasks, leftovers_of, log_size

_OTHER_SESSION_S = 240.0


@pytest.fixture(scope="session")
def needs_lab() -> None:
    """Skip, saying why, where no lab can come up."""
    try:
        prerequisites.require()
    except FtslurmError as error:
        pytest.skip(f"{error} ({error.hint})")


@pytest.fixture(scope="session")
def lab_name(needs_lab: None) -> Iterator[str]:
    """The session's lab; FTSLURM_TEST_LAB lets two sessions run side by side, else the second one waits."""
    name = os.environ.get("FTSLURM_TEST_LAB", "test") + os.environ.get("PYTEST_XDIST_WORKER", "")
    lab_root().mkdir(parents=True, exist_ok=True)
    with (lab_root() / f".{name}.session").open("w") as held:
        wait_for_turn(held.fileno(), name)
        yield name


def wait_for_turn(descriptor: int, name: str) -> None:
    """Wait until no other test session holds the lab."""
    deadline = time.monotonic() + _OTHER_SESSION_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                pytest.fail(f"another test session holds lab {name}: set FTSLURM_TEST_LAB to another name")
            time.sleep(0.2)
        else:
            return


@pytest.fixture(scope="session")
def lab(lab_name: str) -> Iterator[Cluster]:
    """A lab with the nodes n1 to n4, its login host, and the ordinary user `lab.user`."""
    cluster = Cluster(lab_name)
    cluster.down(purge=True)
    cluster.up(4)
    yield cluster
    cluster.down(purge=True)


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Mend every node and cancel every job that a test left behind; no healthy node was drained by Slurm meanwhile."""
    cluster = request.getfixturevalue("lab") if "lab" in request.fixturenames else None
    since = log_size(cluster) if cluster else 0
    yield
    if cluster:
        try:
            cluster.restore(30.0)
        except ServiceUnavailable:
            _give_up_completing(cluster)
            cluster.restore()
        assert drained_for_tasks(cluster, since) == []


def _give_up_completing(cluster: Cluster) -> None:
    """Have Slurm forget the jobs of nodes that do not come to an end with them, as an administrator does."""
    done = cluster.login(["sinfo", "--noheader", "--states=completing", "--format=%n"], timeout=20.0)
    for node in done.stdout.split():
        for change in (["State=DOWN", "Reason=lab"], ["State=RESUME"]):
            cluster.login(["scontrol", "update", f"NodeName={node}", *change], timeout=20.0)


@pytest.fixture
def other(lab_name: str) -> Iterator[Cluster]:
    """A second lab, not yet up, beside the session's one; gone afterwards."""
    cluster = Cluster(f"{lab_name}-other")
    cluster.down(purge=True)
    yield cluster
    cluster.down(purge=True)
    assert leftovers_of(cluster.name) == []
