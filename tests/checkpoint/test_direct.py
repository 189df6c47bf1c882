from __future__ import annotations

import errno
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ftslurm.checkpoint import direct
from ftslurm.checkpoint.arrays import sources
from ftslurm.checkpoint.direct import WRITE_BYTES, Outflow
from ftslurm.checkpoint.stage import Filling, Stage
from ftslurm.checkpoint.writer import write_rank
from ftslurm.errors import UsageError
from tests.checkpoint.library import header

LIMIT_S = 30.0


def flow(path: Path, content: bytes, start: int = 0, pieces: int = 1 << 20) -> None:
    """Write `content` from `start` on in pieces of this size."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with Outflow(descriptor, start) as outflow:
            for at in range(0, len(content), pieces):
                outflow.add(memoryview(content)[at : at + pieces])
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, WRITE_BYTES, WRITE_BYTES + 1, 2 * WRITE_BYTES + 123])
@pytest.mark.parametrize("pieces", [1 << 20, 3_000_001])
def test_a_file_is_what_was_added(tmp_path: Path, size: int, pieces: int) -> None:
    """Whatever its size and that of the pieces; what lay before the start stays."""
    content, before = random.Random(size).randbytes(size), b"x" * 8192
    (tmp_path / "f").write_bytes(before)
    flow(tmp_path / "f", content, len(before), pieces)
    assert (tmp_path / "f").read_bytes() == before + content


def test_where_direct_writes_are_refused_the_cache_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems take the flag and refuse the writes."""
    real, content = os.pwrite, random.Random(1).randbytes(WRITE_BYTES + 5)
    refused = []

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if direct.fcntl.fcntl(descriptor, direct.fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(errno.EINVAL, "no direct writes")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    flow(tmp_path / "f", content)
    assert (tmp_path / "f").read_bytes() == content
    assert len(refused) <= 1


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_write_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """The thread's error reaches the one who adds, or who is done adding."""
    real, done = os.pwrite, []

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if len(done) == writes:
            raise OSError(errno.ENOSPC, "full")
        done.append(offset)
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="full"):
        flow(tmp_path / "f", bytes(2 * WRITE_BYTES + 4096))


# ----------------------------------------------------------------------------------- writing what is still being copied


def filling(sizes: list[int]) -> Filling:
    """A state that is laid out, and not yet copied."""
    rng = np.random.default_rng(3)
    state = {f"k{number}": np.frombuffer(rng.bytes(4 * size), "f4") for number, size in enumerate(sizes)}
    return Stage().begin(sources(state, 0, 1))


@pytest.mark.parametrize("early", [True, False])
def test_a_save_that_is_written_while_it_is_copied_is_the_same(tmp_path: Path, *, early: bool) -> None:
    """Nothing is written or digested before it has arrived."""
    made = filling([6_000_000, 3, 0, 2_000_000, 1023])
    np.frombuffer(made.staged.memory, "u1")[:] = 255  # what must not be taken for the state
    with ThreadPoolExecutor(1) as pool:
        if not early:
            made.copy()
        written = pool.submit(write_rank, tmp_path, made.staged, header())
        if early:
            threading.Event().wait(0.05)
            made.copy()
        index = written.result(LIMIT_S)
    other = filling([6_000_000, 3, 0, 2_000_000, 1023])
    other.copy()
    assert write_rank(tmp_path / "other", other.staged, header()) == index
    assert (tmp_path / index.data_name).read_bytes() == bytes(other.staged.memory)


def test_a_copy_that_fails_ends_the_save(tmp_path: Path) -> None:
    """The error is the program's; the save leaves nothing behind and waits for nothing."""
    made = filling([3_000_000])

    def settle() -> None:
        raise RuntimeError("the device is gone")

    late = Filling(made.staged, tuple(_Late(each) for each in made.sources))
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write_rank, tmp_path, late.staged, header())
        with pytest.raises(RuntimeError, match="device"):
            late.copy(settle)
        with pytest.raises(UsageError, match="could not be copied"):
            written.result(LIMIT_S)
    assert list(tmp_path.iterdir()) == []


class _Late:
    """A source whose bytes lie on a device."""

    memory = None

    def __init__(self, source: object) -> None:
        self.source = source

    def copy_to(self, target: memoryview) -> None:
        """Nothing has arrived when this returns."""
