from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from ftslurm.checkpoint import direct, disk
from ftslurm.checkpoint.arrays import sources
from ftslurm.checkpoint.background import Background
from ftslurm.checkpoint.digest import chunks_of, digest_bytes
from ftslurm.checkpoint.stage import Stage, Staged
from ftslurm.checkpoint.writer import Base, WriteOptions, write_rank
from ftslurm.core.rankindex import Encoding, RankIndex
from ftslurm.errors import StorageError, UsageError
from tests.checkpoint.library import header


def staged(state: dict[str, np.ndarray], stage: Stage | None = None) -> Staged:
    """The state of a world of one rank."""
    return (stage or Stage()).fill(sources(state, 0, 1))


def some(size: int, seed: int = 0) -> np.ndarray:
    """Floats that do not compress."""
    return np.frombuffer(np.random.default_rng(seed).bytes(4 * size), "f4")


STATE = {"a": some(300_000, 1), "b": some(7, 2), "c": np.array(3), "e": np.zeros(0), "z": np.zeros(500_000, "i8")}


def test_the_files_are_what_the_index_says(tmp_path: Path) -> None:
    """Raw bytes at their places, their digests, and the digests of the chunks, as an independent reading finds them."""
    index = write_rank(tmp_path / "new" / "folder", staged(STATE), header(objects={"lr": 0.1}))
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["00000.bin", "00000.json"]
    assert RankIndex.from_bytes((folder / index.index_name).read_bytes()) == index
    data = (folder / index.data_name).read_bytes()
    assert len(data) == index.size
    assert [entry.key for entry in index.entries] == sorted(STATE)
    for entry in index.entries:
        raw = data[entry.offset : entry.offset + entry.stored]
        assert raw == STATE[entry.key].tobytes()
        assert entry.digest == digest_bytes(raw)
    with (folder / index.data_name).open("rb") as file:
        assert index.chunks == chunks_of(file.fileno(), index.size)
    assert (folder / index.data_name).stat().st_mode & 0o777 == disk.PRIVATE_FILE


def test_a_rank_without_arrays_writes_an_empty_file(tmp_path: Path) -> None:
    """Every rank has its two files."""
    index = write_rank(tmp_path, staged({}), header())
    assert (index.size, index.chunks, (tmp_path / "00000.bin").read_bytes()) == (0, "", b"")


def test_a_generation_is_never_overwritten(tmp_path: Path) -> None:
    """A second save under one name is refused and changes nothing; what a killed save has left is no hindrance."""
    (tmp_path / "00000.bin").write_bytes(b"left over")
    os.link(tmp_path / "00000.bin", tmp_path / "linked")
    write_rank(tmp_path, staged(STATE), header())
    before = (tmp_path / "00000.bin").read_bytes()
    with pytest.raises(UsageError, match="saved before"):
        write_rank(tmp_path, staged({}), header())
    assert (tmp_path / "00000.bin").read_bytes() == before
    assert (tmp_path / "linked").read_bytes() == b"left over"


def test_file_systems_without_direct_writes_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is refused by some, the writes by others: both end in a buffered file with the same bytes."""
    expected = write_rank(tmp_path / "direct", staged(STATE), header())
    real_pwrite, real_fcntl = os.pwrite, direct.fcntl.fcntl
    calls = []

    def refuse_writes(descriptor: int, data: memoryview, offset: int) -> int:
        calls.append(len(data))
        if real_fcntl(descriptor, direct.fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct writes")
        return real_pwrite(descriptor, data, offset)

    def refuse_flag(descriptor: int, command: int, flags: int = 0) -> int:
        if command == direct.fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no such flag")
        return real_fcntl(descriptor, command, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse_writes)
        assert write_rank(tmp_path / "refused", staged(STATE), header()) == expected
    assert calls
    with monkeypatch.context() as patch:
        patch.setattr(direct.fcntl, "fcntl", refuse_flag)
        assert write_rank(tmp_path / "flag", staged(STATE), header()) == expected
    files = [(tmp_path / name / "00000.bin").read_bytes() for name in ("direct", "refused", "flag")]
    assert files[0] == files[1] == files[2]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write(2) may write less than it was given."""
    real = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, offset: real(fd, data[: max(4096, len(data) // 2 // 4096 * 4096)], offset)
    )
    index = write_rank(tmp_path, staged(STATE), header())
    with (tmp_path / index.data_name).open("rb") as file:
        assert index.chunks == chunks_of(file.fileno(), index.size)


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename", "mkdir", "open", "exists"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_failed_save_leaves_nothing_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """Wherever the disk fails, both files are gone, the error says why, and the stage can be used again."""
    stage = Stage()
    folder = tmp_path / "g"

    def fail(*arguments: object, **named: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        target = Path if call in {"rename", "mkdir", "exists"} else os
        patch.setattr(target, call, fail)
        with pytest.raises(StorageError, match=os.strerror(code)):
            write_rank(folder, staged(STATE, stage), header())
    assert not folder.exists() or not list(folder.iterdir())
    write_rank(folder, staged(STATE, stage), header())


def test_a_limit_on_file_sizes_is_an_error_like_a_full_disk(tmp_path: Path) -> None:
    """EFBIG from the kernel itself: no mock."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        with pytest.raises(StorageError, match="cannot save to"):
            write_rank(tmp_path, staged(STATE), header())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """ENOSPC from the kernel itself, on a file system that the state does not fit into."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)], check=True, timeout=10)
    try:
        with pytest.raises(StorageError, match="No space left"):
            write_rank(tmp_path, staged(STATE), header())
        assert not list(tmp_path.iterdir())
        write_rank(tmp_path, staged({"b": STATE["b"]}), header())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"objects": {"x": float("nan")}}, {}),
        ({"host": "../n1"}, {}),
        ({}, {"x" * 1001: np.ones(1)}),
        ({}, {"a\nb": np.ones(1)}),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tmp_path: Path, changes: dict[str, object], state: dict[str, np.ndarray]
) -> None:
    """The index is read once for a trial: a restart is too late to find out."""
    with pytest.raises(UsageError):
        write_rank(tmp_path, staged(state), header(**changes))
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ writing less


def test_what_has_not_changed_is_a_reference(tmp_path: Path) -> None:
    """Entries with the base's bytes are not written again; changed, new and empty ones are."""
    first = write_rank(tmp_path / "1", staged(STATE), header())
    changed = STATE | {"b": some(7, 9), "new": some(5)}
    second = write_rank(tmp_path / "2", staged(changed), header(generation="000000002-0000"), base=Base(first))
    assert {entry.key: entry.base for entry in second.entries if entry.is_reference} == dict.fromkeys(
        "acz", first.generation
    )
    assert second.references() == {first.generation}
    assert second.size == 2 * 4096
    places = {entry.key: entry.offset for entry in first.entries}
    assert all(entry.offset == places[entry.key] for entry in second.entries if entry.is_reference)
    data = (tmp_path / "2" / "00000.bin").read_bytes()
    for entry in second.entries:
        if not entry.is_reference:
            assert data[entry.offset : entry.offset + entry.stored] == changed[entry.key].tobytes()


def test_the_same_bytes_of_another_form_are_no_reference(tmp_path: Path) -> None:
    """A tensor of another shape or type is another tensor."""
    first = write_rank(tmp_path / "1", staged({"a": np.zeros(8, "i4"), "b": np.zeros((2, 4))}), header())
    other = {"a": np.zeros(8, "f4"), "b": np.zeros((4, 2))}
    second = write_rank(tmp_path / "2", staged(other), header(generation="000000002-0000"), base=Base(first))
    assert not second.references()


def test_references_are_not_chained(tmp_path: Path) -> None:
    """A base is full, and of the same run, rank and world."""
    first = write_rank(tmp_path / "1", staged(STATE), header())
    second = write_rank(tmp_path / "2", staged(STATE), header(generation="000000002-0000"), base=Base(first))
    with pytest.raises(UsageError, match="000000002-0000 is no base: it refers to 000000001-0000"):
        Base(second)
    with pytest.raises(UsageError, match="is no base: it is that of"):
        write_rank(tmp_path / "3", staged(STATE), header(world_size=2), base=Base(first))


def test_compression_is_kept_where_it_saves_something(tmp_path: Path) -> None:
    """Zeros are compressed, noise and what fits into one border is not; the digest stays that of the raw bytes."""
    raw = write_rank(tmp_path / "raw", staged(STATE), header())
    packed = write_rank(tmp_path / "zstd", staged(STATE), header(), options=WriteOptions(compression="zstd"))
    encodings = {entry.key: entry.encoding for entry in packed.entries}
    assert encodings == dict.fromkeys("abce", Encoding.RAW) | {"z": Encoding.ZSTD}
    assert [entry.digest for entry in packed.entries] == [entry.digest for entry in raw.entries]
    assert packed.size < raw.size - 3_900_000
    with (tmp_path / "zstd" / "00000.bin").open("rb") as file:
        assert packed.chunks == chunks_of(file.fileno(), packed.size)
    with pytest.raises(UsageError, match="'lzma' is neither"):
        write_rank(tmp_path / "other", staged(STATE), header(), options=WriteOptions(compression="lzma"))


# --------------------------------------------------------------------------------------------------- background


def test_one_save_at_a_time() -> None:
    """A second job is not taken while the first is unfinished; the result is told."""
    told: list[tuple[object, object]] = []
    go = threading.Event()
    background = Background[int](lambda result, error: told.append((result, error)))
    assert not background.is_busy
    assert background.submit(lambda: 5 if go.wait(10) else 0)
    assert background.is_busy
    assert not background.submit(lambda: 6)
    assert not background.wait(0.01)
    go.set()
    assert background.wait(10)
    assert told == [(5, None)]
    assert background.submit(lambda: 6)
    assert background.wait(10)
    assert told[1:] == [(6, None)]


def test_errors_of_a_save_are_told() -> None:
    """Whatever it was, it reaches the one who asked, and the next save is tried."""
    told: list[tuple[object, object]] = []
    background = Background[int](lambda result, error: told.append((result, error)))
    error = StorageError("full")

    def fail() -> int:
        raise error

    background.submit(fail)
    assert background.wait(10)
    assert told == [(None, error)]
    assert background.last_error is error
    background.submit(lambda: 1)
    assert background.wait(10)
    assert background.last_error is None
