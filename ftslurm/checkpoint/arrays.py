"""State that consists of NumPy arrays, as programs with mpi4py have it: what each rank saves, and wants back."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ftslurm.checkpoint.reader import Generation, Want
from ftslurm.core.rankindex import DTYPES, Kind
from ftslurm.core.wholeness import Tensor
from ftslurm.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """This rank's part of an array that is spread over the ranks.

    `offsets` say where it begins; a number is the place along the first dimension.
    """

    array: npt.NDArray[Any]
    offsets: int | tuple[int, ...]
    global_shape: tuple[int, ...]

    @property
    def place(self) -> tuple[int, ...]:
        """Where it begins, in every dimension."""
        if isinstance(self.offsets, int):
            return (self.offsets, *(0,) * (self.array.ndim - 1))
        return self.offsets


@dataclass(frozen=True, slots=True)
class Own:
    """An array that belongs to this rank alone; it can be restored with the same number of ranks only."""

    array: npt.NDArray[Any]


State = Mapping[str, "npt.NDArray[Any] | Shard | Own"]
"""By name: a plain array is the same on all ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySource:
    """One array, or a rank's part of one (`ftslurm.checkpoint.stage.Source`)."""

    key: str
    kind: Kind
    array: npt.NDArray[Any]
    shape: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """The element's type."""
        return dtype_name(self.array.dtype)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the part."""
        return self.array.shape

    @property
    def nbytes(self) -> int:
        """Of the part."""
        return self.array.nbytes

    @property
    def memory(self) -> npt.NDArray[np.uint8] | None:
        """The array's own memory, where it is as it is to be written."""
        array = self.array
        plain = array.flags.c_contiguous and array.dtype == array.dtype.newbyteorder("<")
        return array.reshape(-1).view(np.uint8) if plain else None

    def copy_to(self, target: memoryview) -> None:
        """Write the elements in C order, little endian."""
        stored = self.array.dtype.newbyteorder("<")
        np.copyto(np.frombuffer(target, stored).reshape(self.array.shape), self.array)


def sources(state: State, rank: int, world_size: int) -> list[ArraySource]:
    """What this rank has to save: its shards, its own arrays, and those common ones that fall to it.

    Common arrays are spread over the ranks by their names alone, so that nobody has to ask.

    Raises:
        UsageError: an array of a type that cannot be saved.
    """
    return [
        source
        for source in _all(state)
        if source.kind is not Kind.REPLICATED or writer_of(source.key, world_size) == rank
    ]


def wants(state: State, rank: int) -> list[Want]:
    """What this rank needs back, written over the arrays of its state."""
    return [
        Want(
            key=source.key,
            offsets=source.offsets,
            sizes=source.sizes,
            into=_little(source.array, source.key),
            rank=rank if source.kind is Kind.RANK else None,
        )
        for source in _all(state)
    ]


def writer_of(key: str, world_size: int) -> int:
    """The rank that writes a value that all ranks have: the same answer on each of them."""
    return zlib.crc32(key.encode("utf-8")) % world_size


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The name under which elements of this type are saved.

    `ml_dtypes.bfloat16` and the like keep their names.

    Raises:
        UsageError: objects, texts, times, records.
    """
    if dtype.name not in DTYPES or dtype.itemsize != DTYPES[dtype.name]:
        raise UsageError(f"arrays of {dtype} cannot be saved", hint=f"one of {', '.join(sorted(DTYPES))}")
    return dtype.name


def _all(state: State) -> Iterable[ArraySource]:
    for key, value in sorted(state.items()):
        if isinstance(value, Shard):
            source = ArraySource(
                key=key, kind=Kind.SHARDED, array=value.array, shape=value.global_shape, offsets=value.place
            )
        else:
            kind, array = (Kind.RANK, value.array) if isinstance(value, Own) else (Kind.REPLICATED, value)
            source = ArraySource(key=key, kind=kind, array=array, shape=array.shape, offsets=(0,) * array.ndim)
        dtype_name(source.array.dtype)
        yield source


def _little(array: npt.NDArray[Any], key: str) -> npt.NDArray[Any]:
    if array.dtype != array.dtype.newbyteorder("<"):
        raise UsageError(f"{key!r} is big-endian; what was saved is little-endian")
    return array


def raw_bytes(generation: Generation, tensor: Tensor) -> memoryview:
    """All bytes of a common tensor, in C order and little endian; raises as `Generation.read`."""
    itemsize = DTYPES[tensor.dtype]
    raw = np.empty(math.prod(tensor.shape) * itemsize, np.uint8)
    into = raw.view(f"V{itemsize}").reshape(tensor.shape)
    generation.read([Want(key=tensor.key, offsets=(0,) * into.ndim, sizes=tensor.shape, into=into)])
    return raw.data
