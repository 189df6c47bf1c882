from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from ftslurm.core.health import METRICS
from ftslurm.runtime import clock, computetest, gauges
from ftslurm.runtime.clock import ClockWatch


def named(readings):
    """Return the values by metric; every metric is a known one."""
    assert {each.metric for each in readings} <= set(METRICS)
    return {each.metric: each.value for each in readings}


def test_load_and_pressure_of_this_machine():
    """They are there, or left out; a file that is not there is no error."""
    assert named(gauges.load())["load_per_core"] >= 0
    assert all(0 <= value <= 100 for value in named(gauges.pressure()).values())
    assert gauges.pressure(Path("/nothing")) == []


def test_pressure_is_the_share_of_ten_seconds(tmp_path):
    """The line `some`, avg10."""
    path = tmp_path / "memory"
    path.write_text("some avg10=12.50 avg60=1.00 avg300=0.00 total=9\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1\n")
    assert named(gauges.pressure(path)) == {"memory_pressure": 12.5}
    path.write_text("")
    assert gauges.pressure(path) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_1\n", "system.slice/slurmstepd.scope/job_42"),
        ("5:cpuset:/slurm/uid_0/job_7/step_0\n4:memory:/slurm/uid_0/job_7/step_0/task_0\n", "memory/slurm/uid_0/job_7"),
        ("4:memory:/slurm_n1/uid_0/job_7\n", "memory/slurm_n1/uid_0/job_7"),
        ("0::/user.slice/session-1.scope\n", None),
        ("5:cpuset:/slurm/uid_0/job_7/step_0\n", None),
    ],
)
def test_the_jobs_cgroup_is_found_in_both_versions(text, wanted):
    """The job's own group counts what all its steps do."""
    assert gauges.job_cgroup(text, Path("/cg")) == (Path("/cg") / wanted if wanted else None)


def test_memory_kills_are_summed_where_the_kernel_does_not(tmp_path):
    """Version 2 counts below a group in the group; version 1 in each for itself; nothing there is unknown."""
    assert gauges.memory_kills(tmp_path) is None
    for name, kills in (("", 1), ("step_0", 2), ("step_0/task_1", 4)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
    assert gauges.memory_kills(tmp_path) == 7
    (tmp_path / "step_0" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\n")
    assert gauges.memory_kills(tmp_path) == 5
    (tmp_path / "memory.events").write_text("oom 9\noom_kill 3\n")
    assert gauges.memory_kills(tmp_path) == 3


def test_space_is_what_users_may_have(tmp_path):
    """As df says; pseudo file systems without blocks say nothing."""
    values = named(gauges.space("scratch", tmp_path))
    assert 0 <= values["scratch_free"] <= 100
    assert gauges.space("scratch", Path("/proc")) == []


def test_a_write_takes_time_and_leaves_nothing(tmp_path):
    """Fsync included."""
    values = named(gauges.write("shared", tmp_path / "file", 4096))
    assert values["shared_write_failed"] == 0
    assert values["shared_write"] >= 0
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_file_system_are_findings_and_ours_are_not(tmp_path, monkeypatch):
    """No space, quota, I/O error, read-only: the file system is ill. No permission, no folder: we cannot tell."""
    with pytest.raises(FileNotFoundError):
        gauges.write("scratch", tmp_path / "no" / "folder", 10)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gauges.os, "fsync", full)
    (found,) = gauges.write("scratch", tmp_path / "file", 10)
    assert (found.metric, found.value) == ("scratch_write_failed", 1.0)
    assert found.detail == f"{tmp_path}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_clock_offset_takes_the_shortest_trip(monkeypatch):
    """Half of the round trip is the error, and only what lies beyond it counts."""
    now = types.SimpleNamespace(mono=0.0, wall=1000.0)
    monkeypatch.setattr(clock, "time", types.SimpleNamespace(monotonic=lambda: now.mono, time=lambda: now.wall))
    watch = ClockWatch()
    assert watch.offset() is None
    assert watch.readings() == []
    for number, trip, ahead in ((1, 0.5, 3.2), (2, 0.02, 3.0), (3, 4.0, 1.0)):
        watch.sent(number)
        now.mono += trip
        now.wall += trip
        watch.echoed({"n": number, "wall": now.wall - trip / 2 - ahead})
        watch.echoed({"n": number + 10, "wall": 0.0})
        watch.echoed({"n": number})
    found = watch.offset()
    assert (round(found.seconds, 3), round(found.error_s, 3)) == (3.0, 0.01)
    (reading,) = watch.readings()
    assert (reading.value, reading.detail) == (2.99, "+3.000 s, give or take 0.010 s")


def test_the_product_is_right_on_this_cpu():
    """No wrong value; a wrong factor would show."""
    assert computetest.wrong_on_cpu() == 0
    assert {computetest.entry(row, column) for row in range(7) for column in range(7)} <= set(range(-3, 4))


def test_the_program_runs_under_any_python():
    """Without torch, or without a GPU, it has nothing to say, and says so in JSON."""
    argv = [sys.executable, "-S", "-I", computetest.__file__]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n"
