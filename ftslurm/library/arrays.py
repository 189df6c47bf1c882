"""NumPy arrays as pieces of a checkpoint: for programs without torch, and for arrays beside a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ftslurm.checkpoint.objects import ArraySpec
from ftslurm.checkpoint.reader import Want
from ftslurm.core.rankindex import DTYPES, Kind
from ftslurm.core.strictjson import refuse
from ftslurm.errors import UsageError


@dataclass(frozen=True, slots=True)
class ArraySource:
    """One box of a global array that this rank writes."""

    key: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    array: npt.NDArray[Any]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the box."""
        return tuple(self.array.shape)

    @property
    def nbytes(self) -> int:
        """Of the box."""
        return int(self.array.nbytes)

    def copy_to(self, target: memoryview) -> None:
        """Copy it in C order, whatever its strides."""
        np.frombuffer(target, dtype=self.array.dtype).reshape(self.array.shape)[...] = self.array


def shard_source(key: str, array: Any, offsets: Iterable[int], shape: Iterable[int]) -> ArraySource:  # noqa: ANN401
    """Return this rank's box of a global array.

    Raises:
        UsageError: no array of numbers, or a box that does not lie in the shape.
    """
    if not isinstance(array, np.ndarray) or str(array.dtype) not in DTYPES:
        what = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise UsageError(f"{key} cannot be saved: it is {what}, not a NumPy array of numbers")
    source = ArraySource(key, Kind.SHARDED, str(array.dtype), tuple(map(int, shape)), tuple(map(int, offsets)), array)
    ends = [start + size for start, size in zip(source.offsets, source.sizes, strict=False)]
    fits = len(source.offsets) == len(source.shape) == array.ndim and min(source.offsets, default=0) >= 0
    if not fits or any(end > size for end, size in zip(ends, source.shape, strict=True)):
        box = f"{list(source.offsets)} + {list(source.sizes)}"
        raise UsageError(f"{key} cannot be saved: the box {box} does not lie in {list(source.shape)}")
    return source


def whole_source(key: str, value: Any, kind: Kind) -> ArraySource:  # noqa: ANN401
    """Return an array, scalar of NumPy or plain tensor of torch as one piece."""
    array = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else _of_torch(value)
    shape = tuple(map(int, value.shape))
    dtype = str(value.dtype).removeprefix("torch.")
    return ArraySource(key, kind, dtype, shape, (0,) * len(shape), array)


def _of_torch(value: Any) -> npt.NDArray[Any]:  # noqa: ANN401
    from ftslurm.checkpoint.torchstate import as_array

    return as_array(value.detach().cpu())


class Landing:
    """Makes the memory for the arrays of packed values, and what has to be read into it."""

    def __init__(self, known: Callable[[str], tuple[str, tuple[int, ...]] | None], rank: int | None) -> None:
        """`known` tells type and shape of a key in the checkpoint; `rank` is whose own keys they are, None: common."""
        self._known = known
        self._rank = rank
        self._made: dict[str, Any] = {}
        self.wants: list[Want] = []

    def prepare(self, specs: Iterable[ArraySpec]) -> None:
        """Make memory for these. Raises DataDamaged where the checkpoint does not hold what its JSON says."""
        for spec in specs:
            if not spec.key:
                if 0 not in spec.shape:
                    refuse("the checkpoint names an array without a place")
                self._made[repr(spec)] = _new(spec)[0]
                continue
            if self._known(spec.key) != (spec.dtype, spec.shape):
                refuse(f"the checkpoint names {spec.key} as {spec.dtype}{list(spec.shape)}, and does not hold that")
            value, into = _new(spec)
            self._made[repr(spec)] = value
            zeros = (0,) * len(spec.shape)
            self.wants.append(Want(key=spec.key, offsets=zeros, sizes=spec.shape, into=into, rank=self._rank))

    def __call__(self, spec: ArraySpec) -> Any:  # noqa: ANN401
        """Return the array, after it was read."""
        value = self._made[repr(spec)]
        return value[()] if spec.kind == "scalar" else value


def _new(spec: ArraySpec) -> tuple[Any, npt.NDArray[Any]]:
    """(the value, its memory as an array)."""
    if spec.kind != "torch":
        made = np.empty(spec.shape, dtype=np.dtype(spec.dtype))
        return made, made
    import torch

    from ftslurm.checkpoint.torchstate import as_array

    tensor = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
    return tensor, as_array(tensor)
