from __future__ import annotations

import json
import os
import signal
import time

import pytest

from ftslurm.faults import willing
from ftslurm.faults.willing import Willing, give, taken, withdraw

PROGRAM = """
import os, time
from pathlib import Path
from ftslurm.faults.willing import Willing
willing, step = Willing.from_environment(), 0
while True:
    told = willing.obey(step)
    step += 1
    if told.nan or told.flip:
        print(f"nan {told.nan} flip {told.flip}", flush=True)
    with open(os.devnull, "wb") as file:
        os.fsync(os.open(os.environ["PLACE"], os.O_RDWR | os.O_CREAT)) if step % 20 == 0 else None
    print(f"clock {time.time()}", flush=True) if step % 20 == 0 else None
    time.sleep(0.01)
"""


@pytest.fixture
def rank(tmp_path, start):
    """Start a willing rank 1 of a run."""

    def started(**environ):
        told = {"FTSLURM_RUN_DIR": str(tmp_path), "RANK": "1", "OBEY_FAULTS": "1", "PLACE": str(tmp_path / "saved")}
        child = start(1, PROGRAM, **told, **environ)
        folder, deadline = tmp_path / "faults.d", time.monotonic() + 60
        while not (folder / "willing.1").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return child, folder

    return started


def await_taken(folder, name):
    """Wait until an order is obeyed."""
    deadline = time.monotonic() + 60
    while taken(folder, name) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def line_of(child, begin):
    """The next line that begins so."""
    return next(line for line in child.stdout if line.startswith(begin)).strip()


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [
        ("exit", 3, ""),
        ("kill", -signal.SIGKILL, ""),
        ("exception", 1, "AskedToFail: failed as it was asked to"),
        ("memory", 1, "MemoryError"),
        ("gpu-memory", 1, "CUDA out of memory"),
        ("no-room", 1, "No space left on device"),
        ("read-error", 1, "Input/output error"),
        ("gpu-mask", 1, "No CUDA GPUs are available"),
        ("die-in-save", -signal.SIGKILL, ""),
    ],
)
def test_a_program_does_to_itself_what_is_asked(rank, word, code, said):
    """It says when it obeys, and then ends as the word says."""
    child, folder = rank()
    give(folder, "f1", word, 1)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == code
    assert said in errors
    assert json.loads((folder / "f1.taken").read_text()).keys() == {"at", "pid", "step"}


def test_an_order_is_obeyed_once_and_by_its_rank_only(rank):
    """Neither another rank's order, nor one that an earlier attempt has taken, nor nonsense."""
    child, folder = rank()
    give(folder, "others", "exit", 0)
    give(folder, "old", "exit", 1) if (folder / "old.taken").touch() else None
    (folder / "broken.json").write_text("{")
    give(folder, "odd", "fly", 1)
    give(folder, "mine", "nan", 1)
    assert line_of(child, "nan") == "nan True flip False"
    give(folder, "second", "bit-flip", 1)
    assert line_of(child, "nan") == "nan False flip True"
    assert child.poll() is None
    assert {name for name in os.listdir(folder) if name.endswith(".taken")} == {
        "old.taken",
        "mine.taken",
        "second.taken",
    }


def test_what_lasts_ends_with_its_order(rank):
    """A clock is right again, a rank that left the others goes on, a save is survived."""
    child, folder = rank()
    give(folder, "c", "clock", 1)
    await_taken(folder, "c")
    assert any(float(line_of(child, "clock").split()[1]) > time.time() + 3600 for _ in range(5))
    withdraw(folder, "c")
    assert any(float(line_of(child, "clock").split()[1]) < time.time() + 60 for _ in range(20))
    give(folder, "s", "skip", 1)
    await_taken(folder, "s")
    withdraw(folder, "s")
    withdraw(folder, "s")
    line_of(child, "clock")
    assert child.poll() is None


def test_nobody_obeys_who_was_not_asked_to(tmp_path, monkeypatch):
    """Without the variable there is no mark, no thread, and no look at any folder."""
    for name, value in (("FTSLURM_RUN_DIR", str(tmp_path)), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OBEY_FAULTS", raising=False)
    assert Willing.from_environment().obey(1) == willing.Told()
    assert list(tmp_path.iterdir()) == []
