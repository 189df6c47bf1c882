"""The time limit of a job that nobody warns of."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from ftslurm.runtime.limit import watch_the_limit


def slurm_says(folder: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> Path:
    """A scontrol that knows the job's end, and counts how often it was asked."""
    asked = folder / "asked"
    scontrol = folder / "scontrol"
    scontrol.write_text(
        f"#!/bin/sh\necho >> {asked}\necho JobId=7 JobState=RUNNING Reason=None RunTime=1 EndTime={end}\n"
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return asked


def test_a_limit_that_is_near_is_told_once(tmp_path, monkeypatch):
    """Also where less is left at the start than the save is given: then half of that."""
    asked = slurm_says(tmp_path, monkeypatch, f"{time.time() + 3:.0f}")
    told = threading.Event()
    watch_the_limit("7", 100.0, told.set)
    assert told.wait(30)
    assert len(asked.read_text()) >= 2


def test_a_job_without_a_limit_is_left_alone(tmp_path, monkeypatch):
    """Slurm's word for no end is no end."""
    asked = slurm_says(tmp_path, monkeypatch, "Unknown")
    told = threading.Event()
    watch_the_limit("7", 100.0, told.set)
    deadline = time.monotonic() + 30
    while not asked.exists() and time.monotonic() < deadline:
        told.wait(0.05)
    assert asked.exists()
    assert not told.wait(0.5)
