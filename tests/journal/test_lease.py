from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ftslurm import journal
from ftslurm.errors import StorageError, TryAgain
from ftslurm.journal import Lease, holder
from ftslurm.paths import RunPaths
from tests.journal.waiting import wait_until

RECORD = {"job_id": "100", "restart": 0, "host": "n1", "pid": 7}


def names(paths: RunPaths) -> list[int]:
    """The names in the lease's folder."""
    return sorted(int(name) for name in os.listdir(paths.lease))


def test_first_claim_is_epoch_one(paths):
    """Nobody held it; then the claimant does, and says who it is."""
    assert holder(paths) is None
    assert Lease(paths, RECORD).claim() == 1
    found = holder(paths)
    assert (found.number, found.epoch, found.job_id, found.host, found.pid) == (0, 1, "100", "n1", 7)
    assert paths.lease.stat().st_mode & 0o777 == 0o700


def test_next_claim_fences_the_holder(paths):
    """After another supervisor has claimed, the earlier one cannot renew any more, ever."""
    first, second = Lease(paths, RECORD), Lease(paths, {**RECORD, "host": "n2"})
    assert first.claim() == 1
    first.renew()
    assert second.claim() == 2
    assert holder(paths).host == "n2"
    for _ in range(2):
        with pytest.raises(TryAgain, match="held by another supervisor"):
            first.renew()
    second.renew()
    assert holder(paths).number == second.number == 3


def test_old_names_are_removed_but_not_the_first(paths):
    """The folder stays small; each holder's first name stays, and the newest ones."""
    lease = Lease(paths, RECORD)
    lease.claim()
    for _ in range(20):
        lease.renew()
    assert names(paths) == [0, 18, 19, 20]


def test_holder_that_slept_for_long_is_fenced(paths):
    """A supervisor that was stopped wakes up after the next one has renewed many times: its next name is still taken."""
    sleeper, successor = Lease(paths, RECORD), Lease(paths, {**RECORD, "host": "n2"})
    sleeper.claim()
    successor.claim()
    for _ in range(20):
        successor.renew()
    with pytest.raises(TryAgain):
        sleeper.renew()


def test_claim_by_an_old_view_fails(paths, monkeypatch):
    """A claimant that looked long ago finds its name free, because the holder has removed it: it does not hold the run."""
    owner, late = Lease(paths, RECORD), Lease(paths, {**RECORD, "host": "n2"})
    owner.claim()
    owner.renew()
    real, seen = journal._lease_numbers, [[0, 1]]  # what it saw then, and once more for the next number
    seen.append(seen[0])
    for _ in range(20):
        owner.renew()
    (paths.lease / "1").write_text(json.dumps({**RECORD, "epoch": 1, "t": 0.0}))
    monkeypatch.setattr(journal, "_lease_numbers", lambda paths: seen.pop() if seen else real(paths))
    with pytest.raises(TryAgain, match="which is at 21"):
        late.claim()
    owner.renew()


def test_name_without_a_record_is_somebodys(paths):
    """Taken in this moment, or on full storage: the one before it tells who held; its epoch is not given out again."""
    first = Lease(paths, RECORD)
    first.claim()
    (paths.lease / "1").touch()
    (paths.lease / "2").write_text('{"epoch": 3, "job')
    assert holder(paths).epoch == 1
    assert Lease(paths, RECORD).claim() == 4
    assert names(paths) == [0, 1, 2, 3]


def test_names_that_vanish_while_they_are_read_are_not_nobody(paths, monkeypatch):
    """The holder removes old names meanwhile; that is no proof that nobody holds the run."""
    lease = Lease(paths, RECORD)
    lease.claim()
    for _ in range(5):
        lease.renew()
    (paths.lease / "0").unlink()
    real, seen = journal._lease_numbers, [[0, 1]]
    monkeypatch.setattr(journal, "_lease_numbers", lambda paths: seen.pop() if seen else real(paths))
    assert holder(paths).number == 5


def test_full_storage_does_not_fence_its_own_holder(small_disk):
    """A name whose record could not be written is still ours: the next renewal takes the next one."""
    paths = RunPaths(small_disk)
    lease = Lease(paths, RECORD)
    lease.claim()
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_frsize))
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            lease.renew()
    (small_disk / "ballast").unlink()
    lease.renew()
    assert holder(paths).number == lease.number == 3


def test_unwritable_folder_is_storage_trouble(paths):
    """A claim that shared storage does not allow says so, in our words."""
    paths.lease.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot take the lease"):
        Lease(paths, RECORD).claim()


def test_unreadable_lease_is_not_nobody(paths):
    """An error while reading does not make the run free."""
    paths.lease.mkdir()
    (paths.lease / "0").mkdir()
    with pytest.raises(StorageError, match="cannot read the lease"):
        holder(paths)


CONTENDER = """
import json, sys, time
from pathlib import Path
from ftslurm.errors import TryAgain
from ftslurm.journal import Lease
from ftslurm.paths import RunPaths

root, me = Path(sys.argv[1]), sys.argv[2]
(root / f"ready-{me}").touch()
deadline = time.monotonic() + 60
while not (root / "go").exists() and time.monotonic() < deadline:
    pass
got = []
for _ in range(12):
    lease = Lease(RunPaths(root), {"job_id": "100", "restart": 0, "host": me, "pid": 7})
    try:
        epoch = lease.claim()
        got.append((lease.number, epoch))
        for _ in range(3):
            lease.renew()
            got.append((lease.number, epoch))
    except TryAgain:
        continue
print(json.dumps(got))
"""


def test_concurrent_claims_have_one_winner_each(paths):
    """Eight processes claim and renew at once: every name has one owner, every claim an epoch of its own."""
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(paths.root), f"n{index}"], stdout=subprocess.PIPE, text=True
        )
        for index in range(8)
    ]
    wait_until(lambda: len(list(paths.root.glob("ready-*"))) == len(contenders), "not every contender came up")
    (paths.root / "go").touch()
    got = [json.loads(each.communicate(timeout=60)[0]) for each in contenders]
    assert [each.returncode for each in contenders] == [0] * len(contenders)
    taken = [number for names_of_one in got for number, _ in names_of_one]
    assert taken
    assert len(taken) == len(set(taken)), "a name was taken twice"
    owners = {}
    for index, names_of_one in enumerate(got):
        for _, epoch in names_of_one:
            owners.setdefault(epoch, set()).add(index)
    assert all(len(each) == 1 for each in owners.values()), "an epoch was given out twice"
    order = sorted((number, epoch) for names_of_one in got for number, epoch in names_of_one)
    assert [epoch for _, epoch in order] == sorted(epoch for _, epoch in order), "epochs grow with the names"
