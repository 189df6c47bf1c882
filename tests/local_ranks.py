"""Starts the ranks of a program on this machine, as a launcher would, and collects what they say. For tests only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "programs"
TRAIN = ROOT / "docs" / "examples" / "charlm" / "train.py"
SETTERS = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "FTSLURM_", "SLURM_", "OMPI_", "PMI", "TORCHELASTIC_")


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """This process's environment without anything that a launcher sets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTERS)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class Ended:
    """The exit code and the output (stdout and stderr together) of each rank."""

    codes: list[int]
    outputs: list[str]


class Ranks:
    """A running world on this machine; as a context it leaves no process behind."""

    def __init__(self, argv: Sequence[str | Path], size: int, logs: Path, **env: str) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"rank-{rank}.out" for rank in range(size)]
        self.children = []
        common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **env}
        for rank, log in enumerate(self.logs):
            environ = {**clean_environment(), **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with log.open("wb") as out:
                words = [sys.executable, *map(str, argv)]
                self.children.append(
                    subprocess.Popen(words, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for child in self.children:
            child.kill()
            child.wait(30)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every rank."""
        for child in self.children:
            child.send_signal(number)

    def wait(self, timeout: float = 480.0) -> Ended:
        """Wait for all ranks to end."""
        deadline = time.monotonic() + timeout
        codes = [child.wait(max(0.1, deadline - time.monotonic())) for child in self.children]
        return Ended(codes, [log.read_text(encoding="utf-8", errors="replace") for log in self.logs])


def run_ranks(argv: Sequence[str | Path], size: int, logs: Path, **env: str) -> Ended:
    """Start a world and wait for its end."""
    with Ranks(argv, size, logs, **env) as ranks:
        return ranks.wait()


def wait_for(what: str, test: Callable[[], bool], timeout: float = 60.0) -> None:
    """Poll until `test` holds; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not test():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
        time.sleep(0.05)
