from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

RUN_ID = "run-20260101-abcdef"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that looks like a rank's program of the run; it is ended with the test."""
    with ExitStack() as stack:

        def started(rank: int = 0, code: str = "input()", **environ: str) -> subprocess.Popen[str]:
            told = {"FTSLURM_RUN_ID": RUN_ID, "FTSLURM_RANK": str(rank), "FTSLURM_ATTEMPT": "0", **environ}
            ready = f"print('ready', flush=True)\n{code}"
            child = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ready],
                    env={**os.environ, **told},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(child.kill)
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            return child

        yield started
