"""A run's folder, the writer's own copy, and a disk that is soon full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm import journal
from ftslurm.paths import RunPaths


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run's folder, empty."""
    root = tmp_path / "run"
    root.mkdir()
    return RunPaths(root)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The writer's own copy."""
    return tmp_path / "copy.jsonl"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RETRY_S", 0.02)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(folder)], check=True, timeout=20)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)
