from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftslurm.runtime import fence
from tests.runtime.stage import PATIENCE_S, RUN_ID, Agent, rank_env, start_rank

Starter = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run's folder on the node."""
    return tmp_path / "local"


@pytest.fixture
def agent(folder: Path) -> Iterator[Agent]:
    """An agent that has told where it listens."""
    found = Agent(folder)
    yield found
    found.die()


@pytest.fixture
def start(folder: Path) -> Iterator[Starter]:
    """Starts wrappers; whatever a test leaves of them is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, **more: str) -> subprocess.Popen[str]:
        started.append(start_rank(rank_env(folder, **more), *command))
        return started[-1]

    yield run
    fence.fence(RUN_ID, 99, PATIENCE_S)
    for process in started:
        process.wait(PATIENCE_S)
        if process.stderr:
            process.stderr.close()
