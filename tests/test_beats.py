from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftslurm.beats import BEAT, FOLDER, HAS_BUSY, HAS_LOSS, RING, SIZE, Reporter, _reporter, beat, intervals, phase


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What this process, as rank 3, has told so far."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    _reporter.cache_clear()
    yield lambda after=0: intervals((tmp_path / f"3-{os.getpid()}").read_bytes(), after)
    _reporter.cache_clear()


def test_beats_and_phases(told):
    """Each call ends an interval: what it was spent in, what follows, and what was told with it."""
    with phase("load"):
        pass
    beat(1, loss=0.5)
    with phase("save"), phase("evaluation of all"):
        pass
    beat(2, busy_s=0.25, loss=math.nan)
    beat(3, "save")
    count, found = told()
    assert count == len(found) == 9
    assert [(each.spent, each.now) for each in found] == [
        ("init", "load"),
        ("load", "init"),
        ("init", "step"),
        ("step", "save"),
        ("save", "evaluation o"),
        ("evaluation o", "save"),
        ("save", "step"),
        ("step", "step"),
        ("step", "save"),
    ]
    assert [each.step for each in found] == [-1, -1, 1, 1, 1, 1, 1, 2, 3]
    assert [each.flags for each in found[-2:]] == [BEAT | HAS_BUSY | HAS_LOSS, BEAT]
    assert (found[2].loss, found[-2].busy_s) == (0.5, 0.25)
    assert math.isnan(found[-2].loss)
    assert all(0 <= each.length_s < 60 for each in found)
    assert [each.number for each in told(7)[1]] == [8, 9]


def test_the_ring_keeps_the_newest(told):
    """A reader that comes late misses the oldest, and knows how many there were."""
    for step in range(1000):
        beat(step)
    count, found = told(10)
    assert count == 1000
    assert [each.step for each in found] == list(range(1000 - RING + 1, 1000))


@pytest.mark.parametrize("data", [b"", b"x" * 99, bytes(SIZE), b"FTSPROG1"])
def test_a_file_of_another_kind_tells_nothing(data):
    """A file that is being created, or is none of ours, is read as nothing."""
    assert intervals(data, 0) == (0, [])


def test_wrong_arguments_end_no_training(told):
    """What cannot be told is not told."""
    beat("many")
    beat(2**70)
    beat(1, loss="low")
    beat(1, loss=object())
    beat(7)
    assert [each.step for each in told()[1]] == [7]


@pytest.mark.parametrize("environ", [{}, {"RANK": "0"}, {FOLDER: "/nonexistent", "RANK": "0"}, {FOLDER: "/tmp"}])
def test_outside_of_ftslurm_nothing_happens(environ):
    """No folder, no rank, a folder that is not there: both calls do nothing and leave nothing."""
    program = "from ftslurm.training import beat, phase\nbeat(1)\nwith phase('save'): beat(2)\nprint('fine')"
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_a_file_belongs_to_one_process(tmp_path):
    """A second process cannot have it."""
    Reporter(str(tmp_path / "0-1"))
    with pytest.raises(FileExistsError):
        Reporter(str(tmp_path / "0-1"))
    assert (tmp_path / "0-1").stat().st_mode & 0o777 == 0o600
    assert Path(tmp_path / "0-1").stat().st_size == SIZE


def test_a_full_disk_ends_no_training(tmp_path):
    """What cannot be allocated is not mapped: a write to it would kill the process."""
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    program += "from ftslurm.training import beat\nbeat(1); beat(2); print('fine')"
    environ = {FOLDER: str(tmp_path), "RANK": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("fine\n", "")
    (path,) = tmp_path.iterdir()
    assert intervals(path.read_bytes(), 0) == (0, [])
