"""The ends of srun clients, with programs in their place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ftslurm.core.events import LaunchEnded
from ftslurm.runtime import clients
from ftslurm.runtime.clients import Clients
from tests.runtime.stage import PATIENCE_S, is_gone, wait_until

SHEPHERDED = """
import os, sys, time
if not os.fork():
    print(os.getpid(), flush=True)
    time.sleep(600)
if len(sys.argv) > 1:
    sys.stdin.readline()
    print("srun: error: n2: task 1: Killed", flush=True)
    sys.exit(137)
time.sleep(600)
"""


class Stage:
    """Clients, and what they tell."""

    def __init__(self, folder: Path) -> None:
        self.cancelled: list[str] = []
        self.told: list[LaunchEnded] = []
        self.output = folder / "launcher.out"
        self.clients = Clients(self.told.append, self.cancelled.append)
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
        """Start one with a shepherd; return both."""
        with self.output.open("wb") as output:
            argv = [sys.executable, "-c", SHEPHERDED, *arguments]
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output, start_new_session=True)
        self.started.append(process)
        shepherd = int(wait_until(self.output.read_text, "the shepherd is there"))
        self.clients.add(3, process, self.output)
        return process, shepherd


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage on which nobody waits for long."""
    monkeypatch.setattr(clients, "PATIENCE_S", 0.3)
    found = Stage(tmp_path)
    yield found
    for process in found.started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also the shepherd of one that has ended
        process.communicate(timeout=PATIENCE_S)


def order(stage: Stage, *, at_once: bool = False, gone: Callable[[], bool] = lambda: True) -> None:
    """The end of the attempt is ordered."""
    stage.clients.end(3, ["1", "2"], at_once=at_once, gone=gone)


def test_a_client_may_end_by_itself(stage: Stage) -> None:
    """It is not killed while its nodes may still speak to it, and what it says of our doing is no evidence."""
    process, _ = stage.start("waits")
    order(stage)
    assert process.poll() is None
    process.communicate(b"\n", timeout=PATIENCE_S)
    wait_until(lambda: stage.told, "its end is told")
    (told,) = stage.told
    assert (told.attempt, told.code) == (3, -signal.SIGKILL)
    assert "Killed" not in told.output
    assert process.returncode == 137


def test_what_does_not_end_is_killed_with_its_shepherd(stage: Stage) -> None:
    """Where a node was cut the client waits for ever; Slurm is asked only where a node has not confirmed."""
    process, shepherd = stage.start()
    order(stage)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    wait_until(lambda: is_gone(shepherd), "the shepherd has ended, too")
    assert stage.cancelled == []
    order(stage, gone=lambda: False)
    wait_until(lambda: stage.cancelled == ["1", "2"], "the steps are cancelled")


def test_a_client_that_may_still_start_tasks_is_killed_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that is not whole is stopped by all means."""
    monkeypatch.setattr(clients, "PATIENCE_S", 600.0)
    process, shepherd = stage.start()
    order(stage, at_once=True, gone=lambda: False)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    wait_until(lambda: stage.cancelled == ["1", "2"], "the steps are cancelled")
    wait_until(lambda: is_gone(shepherd), "Slurm is not asked twice")


def test_a_step_that_nobody_knows_is_left_to_the_shepherd(stage: Stage) -> None:
    """It alone knows what its srun has started: it outlives it."""
    process, shepherd = stage.start()
    stage.clients.end(3, [], at_once=True, gone=lambda: False)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert not is_gone(shepherd)
    os.kill(shepherd, signal.SIGKILL)


def test_one_that_ends_before_speaks_for_itself(stage: Stage) -> None:
    """Its code and its words are evidence."""
    process, _ = stage.start("waits")
    process.communicate(b"\n", timeout=PATIENCE_S)
    wait_until(lambda: stage.told, "its end is told")
    assert (stage.told[0].code, "Killed" in stage.told[0].output) == (137, True)
    order(stage)
    stage.clients.leave()


def test_a_run_that_leaves_waits_for_its_clients(stage: Stage) -> None:
    """A bounded time; then they are killed."""
    process, shepherd = stage.start()
    stage.clients.leave()
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    wait_until(lambda: is_gone(shepherd), "the shepherd has ended, too")


def test_no_output_is_no_word(tmp_path: Path) -> None:
    """A launcher that has printed nothing may have no file."""
    assert clients.tail(tmp_path / "none") == ""
