from __future__ import annotations

from collections.abc import Iterator

import pytest

from ftslurm.errors import ServiceUnavailable
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.machine import CommandTimedOut, Who
from ftslurm.lab.passthrough import Fault
from ftslurm.lab.storage import Storage
from tests.lab.oracles import leftovers_of, pings, wait_until


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
    """Frozen: every call waits. Thawed: the call that waited has succeeded."""
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
    storage.fail(Fault.HANG)
    waiting = lab.popen("n1", ["touch", str(storage.path / "x")])
    state = ["ps", "-C", "touch", "-o", "stat="]
    wait_until(lambda: lab.exec("n1", state).stdout.startswith("S"), 10, "it does not wait")
    lab.exec("n1", ["pkill", "-KILL", "-x", "touch"])
    wait_until(lambda: lab.exec("n1", state).stdout.startswith("D"), 10, "it can be killed")
    lab.kill("n1")
    assert not pings(lab, "n2", "n1")
    lab.start("n1")
    assert lab.exec("n1", ["hostname"]).stdout == "n1\n"
    storage.restore()
    waiting.wait(timeout=10)
    assert lab.exec("n1", ["stat", "-f", "-c", "%T", str(storage.path)]).stdout.strip().startswith("fuse")


@pytest.mark.lab
def test_a_lab_goes_down_with_frozen_storage(other: Cluster) -> None:
    """`down` needs no healthy storage: processes that wait for it end with it."""
    pytest.importorskip("mfusepy")
    other.up(1)
    other.storage.attach()
    other.storage.fail(Fault.HANG)
    waiting = other.popen("n1", ["ls", str(other.storage.path)])
    other.down()
    waiting.wait(timeout=10)
    assert leftovers_of(other.name) == []


@pytest.mark.lab
def test_storage_that_is_not_attached_cannot_fail(lab: Cluster) -> None:
    """A fault of storage that is not there is an error with the command that attaches it."""
    with pytest.raises(ServiceUnavailable, match="not attached"):
        lab.storage.fail(Fault.FULL)
