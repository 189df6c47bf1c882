from __future__ import annotations

import math
import os
import time

import pytest

from ftslurm import beats
from ftslurm.core.progress import WARM_UP
from ftslurm.paths import LocalPaths, rank_log_name
from ftslurm.runtime.progress import ProgressReader, RankState
from ftslurm.runtime.ranks import LocalRank
from ftslurm.runtime.spec import ProgressSpec


class Node:
    """A node with one rank of attempt 0, whose digests are kept."""

    def __init__(self, folder, **spec):
        self.local = LocalPaths(folder)
        self.row = LocalRank(attempt=0, rank=0, said={"pid": os.getpid()}, released=True)
        self.told = []
        self.reader = ProgressReader(ProgressSpec(**spec), self.local, lambda _: [self.row], self.told.append)
        self.folder = self.reader.begin(0, 1)
        self.now = time.monotonic()

    def look(self, after_s=1.0, stood_s=0.0):
        """Time passes; return the newest digest's row as a dict."""
        self.now += after_s
        self.reader._look(self.reader._watched, self.now, stood_s)
        names = ("rank", "source", "beats", "step", "phase", "age_s", "taken_s", "own", "losses")
        return dict(zip(names, self.told[-1]["ranks"][0], strict=True)) if self.told else {}

    def write(self, text):
        """The rank prints."""
        path = self.local.spool(0) / rank_log_name(0)
        with path.open("a") as file:
            file.write(text)


def test_beats_are_digested(tmp_path):
    """How far, in what, for how long silent; how long phases took after the first steps; losses, a bad one first."""
    node = Node(tmp_path)
    rank = beats.Reporter(f"{node.folder}/0-{os.getpid()}")
    for step in range(WARM_UP):
        rank.write(step, "step", None, None)
    assert node.look()["taken_s"] == {}
    rank.write(7, "step", 0.5, 0.01)
    rank.write(8, "step", math.inf, 0.03)
    rank.enter("save")
    rank.enter("step")
    row = node.look()
    assert (row["source"], row["beats"], row["step"], row["phase"], row["age_s"]) == ("beat", 7, 8, "step", 0.0)
    assert set(row["taken_s"]) == {"step", "save"}
    assert row["own"] == [pytest.approx(0.04), 2]
    assert row["losses"] == [[7, "0.5"], [8, "inf"]]
    row = node.look(9.0)
    assert (row["age_s"], row["taken_s"], row["losses"]) == (9.0, {}, [])
    assert node.reader.pids(0) == {0: os.getpid()}
    assert node.reader.pids(1) == {}


def test_an_observer_that_stood_still_blames_nobody(tmp_path):
    """The time in which nobody looked is no silence of the rank."""
    node = Node(tmp_path)
    beats.Reporter(f"{node.folder}/0-{os.getpid()}").write(1, "step", None, None)
    node.look()
    assert node.look(31.0, stood_s=30.0)["age_s"] == 1.0


def test_what_is_printed_is_progress(tmp_path):
    """A pattern in whole lines of the log; the same step again is none; numbers as people write them."""
    node = Node(tmp_path, log_pattern=r"step (?P<step>[\d,]+)")
    assert node.look()["source"] == ""
    node.write("step 1,000 loss 3\nnothing\nstep 1,0")
    row = node.look(6.0)
    assert (row["source"], row["step"], row["phase"], row["age_s"]) == ("pattern", 1000, "step", 0.0)
    node.write("01\nstep 1,001\n")
    assert node.look()["step"] == 1001
    node.write("step 1,001\n")
    assert node.look(2.0)["age_s"] == 2.0


def test_files_that_change_are_progress(tmp_path):
    """Without beats and patterns."""
    node = Node(tmp_path, files=("*.csv",))
    node.look()
    node.reader._files.changed = node.now + 5.0
    row = node.look(7.0)
    assert (row["source"], row["age_s"], row["phase"]) == ("files", 2.0, "step")


def test_who_writes_much_is_saving(tmp_path, monkeypatch):
    """A rank that is silent in a step and writes is taken to save, as long as it writes."""
    node, wrote = Node(tmp_path), 0
    monkeypatch.setattr("ftslurm.runtime.progress._written", lambda _: wrote)
    beats.Reporter(f"{node.folder}/0-{os.getpid()}").write(1, "step", None, None)
    node.look()
    node.look(4.0)
    wrote = 5 * 2**20
    assert node.look()["phase"] == "save"
    assert node.look(4.0)["phase"] == "save"
    assert node.look(2.0)["phase"] == "step"


def test_digests_are_rare_and_end(tmp_path):
    """At most two a second; few while nothing is seen; none of a rank that has ended, or of an attempt that is over."""
    node = Node(tmp_path)
    node.look(0.25)
    assert node.look(1.0)["source"] == ""
    assert len(node.told) == 1
    beats.Reporter(f"{node.folder}/0-{os.getpid()}").write(1, "step", None, None)
    for _ in range(8):
        node.look(0.25)
    assert 4 <= len(node.told) <= 6
    assert node.reader.begin(0, 1) == node.folder
    count, node.row.done = len(node.told), True
    node.look(9.0)
    assert len(node.told) == count
    node.reader.end(0)
    assert node.reader._watched is None


def test_only_some_losses_travel():
    """The newest, and one that is no number whenever it was."""
    state = RankState(0, 0.0)
    found = [
        beats.Interval(n, n, 0.1, 0.0, math.nan if n == 3 else 1.0, beats.BEAT | beats.HAS_LOSS, "step", "step")
        for n in range(1, 100)
    ]
    state.take(found, 1.0)
    assert len(state.row(1.0)[-1]) == 65
    assert state.row(1.0)[-1] == []
