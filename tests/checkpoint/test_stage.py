from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.checkpoint.arrays import ArraySource, Own, Shard, dtype_name, sources, wants, writer_of
from ftslurm.checkpoint.pages import anonymous_memory
from ftslurm.checkpoint.stage import Stage, staged_bytes
from ftslurm.core.rankindex import ALIGN_BYTES, Kind
from ftslurm.errors import UsageError


def source(key: str, array: np.ndarray, **changes: object) -> ArraySource:
    """An array that all ranks have."""
    fields = {"key": key, "kind": Kind.REPLICATED, "array": array, "shape": array.shape, "offsets": (0,) * array.ndim}
    return ArraySource(**fields | changes)


@given(st.lists(st.integers(0, 3000), max_size=6), st.randoms())
def test_the_stage_is_the_data_file(lengths: list[int], random: object) -> None:
    """Pieces lie in the order of their keys from border to border; between them are zeros, whatever was there before."""
    stage = Stage()
    for fill in (255, 1):
        contents = {f"k{number}": np.full(length, fill, "u1") for number, length in enumerate(lengths)}
        given_ = [source(key, array) for key, array in contents.items()]
        random.shuffle(given_)
        staged = stage.fill(given_)
        expected = b"".join(
            array.tobytes() + bytes(-array.nbytes % ALIGN_BYTES) for _, array in sorted(contents.items())
        )
        assert bytes(staged.memory) == expected
        assert [bytes(staged.bytes_of(piece)) for piece in staged.pieces] == [
            array.tobytes() for _, array in sorted(contents.items())
        ]
        assert len(staged.memory) == staged_bytes(given_)


def test_memory_is_kept() -> None:
    """A second save allocates nothing, and a larger state gets more."""
    sizes: list[int] = []

    def allocate(size: int) -> memoryview:
        sizes.append(size)
        return anonymous_memory(size)

    stage = Stage(allocate)
    stage.prepare(10_000)
    small = [source("a", np.ones(2000, "f4"))]
    assert stage.fill(small).memory.obj is stage.fill(small).memory.obj
    assert sizes == [12_288]
    stage.fill([source("a", np.ones(5000, "f4"))])
    assert sizes == [12_288, 20_480]
    assert stage.size_bytes == 20_480


def test_memory_begins_at_a_border() -> None:
    """O_DIRECT takes no other memory, so no other is accepted."""
    assert np.frombuffer(anonymous_memory(1), "u1").ctypes.data % mmap.PAGESIZE == 0
    with pytest.raises(UsageError, match="page's border"):
        Stage(lambda size: anonymous_memory(size + 1)[1:]).prepare(5)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype="f4").reshape(3, 4)[:, ::2], np.arange(12, dtype="f4").reshape(3, 4).T, np.array(7),
        np.arange(3, dtype=">i4"), np.zeros((0, 3)), np.array([True, False]), np.array([1 + 2j]),
    ],
)  # fmt: skip
def test_bytes_are_in_c_order_and_little_endian(array: np.ndarray) -> None:
    """Strides and byte order of the program's memory do not show in the file."""
    staged = Stage().fill([source("a", array)])
    stored = array.astype(array.dtype.newbyteorder("<"), order="C")
    assert bytes(staged.bytes_of(staged.pieces[0])) == stored.tobytes()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([source("a", np.ones(2)), source("a", np.ones(2))], "'a' .* twice"),
        ([source("a", np.ones(2), shape=(1,))], "cannot be"),
        ([source("a", np.ones(2), offsets=(0, 0))], "cannot be"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(made: list[ArraySource], said: str) -> None:
    """Nothing is saved that could not be read."""
    with pytest.raises(UsageError, match=said):
        Stage().fill(made)


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.array([None]), np.array(["2026-01-01"], "M8[D]"), np.zeros(2, "V4")]
)
def test_arrays_of_other_things_than_numbers_are_refused(array: np.ndarray) -> None:
    """Objects would need pickle; the error names what can be saved."""
    with pytest.raises(UsageError, match="cannot be saved"):
        sources({"x": array}, 0, 1)
    with pytest.raises(UsageError):
        dtype_name(array.dtype)


def test_common_arrays_are_spread_over_the_ranks() -> None:
    """Each is written by exactly one rank, which all ranks know without asking; shards and own arrays by everyone."""
    state = {f"w{number}": np.ones(1) for number in range(20)} | {"own": Own(np.ones(1))}
    state["part"] = Shard(np.ones((2, 3)), 4, (8, 3))
    saved = [sources(state, rank, 3) for rank in range(3)]
    common = sorted(each.key for part in saved for each in part if each.kind is Kind.REPLICATED)
    assert common == sorted(key for key in state if key.startswith("w"))
    assert all({"own", "part"} <= {each.key for each in part} for part in saved)
    assert all(writer_of(each.key, 3) == 1 for each in saved[1] if each.kind is Kind.REPLICATED)
    assert next(each for each in saved[0] if each.key == "part").offsets == (4, 0)


def test_what_is_wanted_back_goes_over_the_program_s_arrays() -> None:
    """The arrays of the state are the places; big-endian memory cannot be one."""
    state = {"w": np.ones(2), "own": Own(np.ones(3))}
    found = {want.key: want for want in wants(state, 2)}
    assert found["w"].into is state["w"]
    assert (found["w"].rank, found["own"].rank) == (None, 2)
    with pytest.raises(UsageError, match="big-endian"):
        wants({"w": np.ones(2, ">f8")}, 0)
