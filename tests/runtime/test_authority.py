"""Who may act, and for how long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ftslurm.errors import TryAgain
from ftslurm.journal import Lease, holder
from ftslurm.paths import RunPaths
from ftslurm.runtime.authority import LEASE_FRESH_S, Authority, Terms
from tests.runtime.stage import wait_until

RECORD = {"job_id": "100", "restart": 0, "host": "n1", "pid": 1}


class Majority:
    """How long ago a majority has answered, as the test says."""

    def __init__(self, age_s: float) -> None:
        self.age_s = age_s

    def __call__(self) -> float:
        return self.age_s


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run's folder."""
    return RunPaths(tmp_path)


def claimed(paths: RunPaths) -> Lease:
    """A lease of epoch 1."""
    lease = Lease(paths, RECORD)
    assert lease.claim() == 1
    return lease


def test_a_majority_counts_for_two_thirds_of_the_time(paths: RunPaths) -> None:
    """A claim is possible after 6 s, so an answer counts for 4 s, and a lease that was only claimed counts for nothing."""
    majority = Majority(3.9)
    authority = Authority(claimed(paths), majority, Terms(takeover_after_s=6.0))
    assert authority.fresh()
    majority.age_s = 4.1
    assert not authority.fresh()


def test_a_renewal_stands_in_for_the_majority_and_runs_out(paths: RunPaths) -> None:
    """Without a majority the lease is renewed when an action wants it."""
    authority = Authority(claimed(paths), Majority(float("inf")))
    authority.start()
    assert authority.wait()
    authority.stop()
    newest = holder(paths)
    assert newest is not None
    assert newest.number > 0
    wait_until(lambda: not authority.fresh(), "the renewal counts no more", LEASE_FRESH_S + 5)


def test_a_lease_that_another_has_taken_fences_for_good(paths: RunPaths) -> None:
    """The one that wakes up finds the next name taken; no majority helps it any more."""
    sleeper = claimed(paths)
    assert Lease(paths, {**RECORD, "host": "n2"}).claim(expected=1) == 2
    majority = Majority(float("inf"))
    authority = Authority(sleeper, majority)
    authority.start()
    assert not authority.wait()
    majority.age_s = 0.0
    assert authority.fenced
    assert not authority.fresh()


def test_without_any_authority_somebody_is_told(paths: RunPaths) -> None:
    """A supervisor that reaches nobody never sits: it asks for a requeue after a while, and is fenced then."""
    asked: list[float] = []
    lease = Lease(RunPaths(paths.root / "nowhere"), RECORD)

    def give_up() -> None:
        asked.append(time.monotonic())
        authority.fence("requeued")

    authority = Authority(lease, Majority(float("inf")), Terms(no_quorum_after_s=0.2), give_up)
    authority.start()
    assert not authority.wait()
    assert len(asked) == 1


def test_two_short_absences_are_not_one_long_one(paths: RunPaths) -> None:
    """Authority that was lost for a moment long ago, and is lost again now, has not been away all the time."""
    asked: list[float] = []
    majority = Majority(float("inf"))
    lease = Lease(RunPaths(paths.root / "nowhere"), RECORD)
    authority = Authority(lease, majority, Terms(no_quorum_after_s=0.3), lambda: asked.append(time.monotonic()))
    assert authority.lasts()
    majority.age_s = 0.0
    assert authority.wait()
    time.sleep(0.4)
    majority.age_s = float("inf")
    assert authority.lasts()
    assert asked == []


def test_a_claim_from_an_epoch_takes_it_from_that_one_only(paths: RunPaths) -> None:
    """Of two that saw the same holder fall silent one gets the lease; who comes late must look again."""
    claimed(paths)
    assert Lease(paths, RECORD).claim(expected=1) == 2
    with pytest.raises(TryAgain, match="not of epoch 1"):
        Lease(paths, RECORD).claim(expected=1)


def test_a_claim_that_is_under_way_is_left_alone(paths: RunPaths) -> None:
    """A new name without a record is somebody who has just taken it."""
    claimed(paths)
    (paths.lease / "1").touch()
    with pytest.raises(TryAgain, match="being taken"):
        Lease(paths, RECORD).claim(expected=1)
