from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftslurm.demo import program, sweep
from ftslurm.faults.deeds import Send
from ftslurm.faults.hand import Order, grasp
from ftslurm.paths import LocalPaths

HURRIED = [sys.executable, "-I", "-c", "from ftslurm.demo import program; program.PACE_S = 0.01; program.main()"]


@pytest.fixture
def start(tmp_path, free_port):
    """Start all ranks of an attempt; they are ended with the test."""
    (tmp_path / "run" / program.REQUESTS).mkdir(parents=True)
    (tmp_path / "saved").mkdir()
    with ExitStack() as stack:

        def started(world: int, attempt: int = 0, checkpoint: Path | None = None) -> list[subprocess.Popen[str]]:
            told = {
                "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
                "FTSLURM_RUN_DIR": str(tmp_path / "run"), "FTSLURM_ATTEMPT": str(attempt), "FTSLURM_RUN_ID": "r",
                "FTSLURM_CHECKPOINT_DIR": str(tmp_path / "saved"),
                **({"FTSLURM_CHECKPOINT": str(checkpoint)} if checkpoint else {}),
            }  # fmt: skip
            ranks = []
            for rank in range(world):
                environ = {**os.environ, **told, "RANK": str(rank), "FTSLURM_RANK": str(rank)}
                process = stack.enter_context(subprocess.Popen(HURRIED, env=environ, stdout=subprocess.PIPE, text=True))
                stack.callback(process.kill)
                ranks.append(process)
            return ranks

        yield started


def saved(folder: Path, step: int) -> Path:
    """The checkpoint of a step, once it is there."""
    path = folder / "saved" / f"step_{step:08d}.json"
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return path


def test_any_number_of_ranks_computes_the_same(tmp_path, start):
    """A checkpoint of three ranks is that of one computation alone; resumed on two, it ends where one alone would."""
    ranks = start(3)
    state = json.loads(saved(tmp_path, program.EVERY).read_text())
    assert tuple(state["weights"]) == program.trained(program.EVERY)
    # One is killed, as the demonstration does it: the others cannot go on.
    assert grasp(Order(run_dir=Path("/nowhere/r"), deed=Send(signal="SIGKILL"), rank=2)).pids == [ranks[2].pid]
    assert ranks[2].wait(60) == -signal.SIGKILL
    assert [rank.wait(60) for rank in ranks[:2]] == [1, 1]
    rank, _ = start(2, attempt=1, checkpoint=saved(tmp_path, program.EVERY))
    out, _ = rank.communicate(timeout=60)
    last = program.EVERY + program.AFTER
    assert f"final step {last} digest {program.digest(program.trained(last))}" in out.splitlines()


def test_requests(tmp_path, start):
    """A rank that is asked to kills itself, in the first attempt only; all stop when one is asked to."""
    requests = tmp_path / "run" / program.REQUESTS
    (requests / "kill-1").touch()
    assert start(2)[1].wait(60) == -signal.SIGKILL
    ranks = start(2, attempt=1)
    (requests / program.STOP).touch()
    assert [rank.wait(60) for rank in ranks] == [0, 0]


def test_the_training_learns():
    """The error falls: it is a training, not a clock."""
    everything = program.samples()
    first, later = (program.loss_of(program.gradients(program.trained(steps), everything)) for steps in (0, 200))
    assert later < first / 2


def test_sweeping_takes_this_run_alone(tmp_path, monkeypatch):
    """The run's folders go, and those above them where nothing else is in them."""
    monkeypatch.setattr(
        sweep.LocalPaths,
        "of",
        classmethod(lambda cls, run_id: LocalPaths(tmp_path / "tmp" / f"ftslurm-{os.getuid()}" / run_id)),
    )
    mine = sweep.places("mine-20260101-abcdef", str(tmp_path / "scratch"))
    others = sweep.places("other-20260101-abcdef", str(tmp_path / "scratch"))[1]
    for folder in (*mine, others):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").touch()
    assert sweep.sweep("mine-20260101-abcdef", str(tmp_path / "scratch")) == []
    assert others.is_dir()
    assert not any(folder.exists() for folder in mine)
    assert list((tmp_path / "tmp").iterdir()) == []
