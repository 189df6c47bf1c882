from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftslurm.paths import LocalPaths, RunPaths
from ftslurm.runtime.shipping import Shipper

LIMIT_S = 30.0


@pytest.fixture
def places(tmp_path: Path) -> tuple[RunPaths, LocalPaths]:
    """A run's folder, and the node's own."""
    return RunPaths(tmp_path / "run"), LocalPaths(tmp_path / "node")


def shipped(places: tuple[RunPaths, LocalPaths], rank: int, text: str, *, adopted: bool) -> str:
    """Let an agent follow a rank that goes on to print `text`; returns what the supervisor is told."""
    told: list[bytes] = []
    shipper = Shipper(*places, lambda attempt, rank, data: told.append(data))
    with shipper.follow(3, rank, adopted=adopted).open("a") as log:
        log.write(text)
    shipper.start()
    assert shipper.finish(LIMIT_S)
    return b"".join(told).decode()


@pytest.mark.parametrize("rank", [0, 1])
def test_the_next_agent_goes_on_where_one_has_ended(places: tuple[RunPaths, LocalPaths], rank: int) -> None:
    """Every byte that a rank prints, also while there was no agent, comes to shared storage once, rank 0's to the job."""
    first = shipped(places, rank, "begun\n", adopted=False)
    with (places[1].spool(3) / f"rank-{rank:05d}.log").open("a") as log:
        log.write("meanwhile\n")
    second = shipped(places, rank, "goes on\n", adopted=True)
    assert places[0].rank_log(3, rank).read_text() == "begun\nmeanwhile\ngoes on\n"
    assert (first, second) == (("begun\n", "meanwhile\ngoes on\n") if rank == 0 else ("", ""))


def test_an_adopted_rank_of_which_nothing_was_shipped(places: tuple[RunPaths, LocalPaths]) -> None:
    """The agent before it may have died at once: all of it is new."""
    assert shipped(places, 0, "all\n", adopted=True) == "all\n"
    assert places[0].rank_log(3, 0).read_text() == "all\n"


def test_a_storage_that_fails_is_tried_again(places: tuple[RunPaths, LocalPaths]) -> None:
    """What is printed meanwhile waits on the node, and comes whole."""
    shipper = Shipper(*places, lambda *_: None)
    with shipper.follow(3, 1).open("a") as log:
        log.write("kept\n")
    logs = places[0].attempt_logs(3)
    logs.parent.mkdir(parents=True)
    logs.touch()  # no folder
    shipper.start()
    assert not shipper.finish(0.5)
    assert "rank-00001" in shipper.error or os.strerror(17) in shipper.error
    logs.unlink()
    assert shipper.finish(LIMIT_S)
    assert places[0].rank_log(3, 1).read_text() == "kept\n"
