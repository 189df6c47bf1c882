from __future__ import annotations

from pathlib import Path

import pytest

from ftslurm.slurm.client import SlurmClient
from tests.slurm.fake import FakeSlurm


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    """Give a Slurm of four idle nodes whose commands come first on PATH."""
    return FakeSlurm(tmp_path)


@pytest.fixture
def client(fake: FakeSlurm) -> SlurmClient:
    """Give the client under test, talking to the fake."""
    return SlurmClient(environ=fake.environ, timeout_s=20.0)
