from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.fake import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Give a Slurm of four nodes first on PATH, and a home for ftslurm with no runs."""
    (tmp_path / "slurm").mkdir()
    fake = FakeSlurm(tmp_path / "slurm")
    for name in ("PATH", "FAKE_SLURM_STATE"):
        monkeypatch.setenv(name, fake.environ[name])
    monkeypatch.setenv("FTSLURM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "host").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "host"))
    monkeypatch.delenv("FTSLURM_RUN_ROOT", raising=False)
    return fake


@pytest.fixture
def root(tmp_path: Path, slurm: FakeSlurm) -> Path:
    """Give the user's default run root."""
    return tmp_path / "home" / "runs"
