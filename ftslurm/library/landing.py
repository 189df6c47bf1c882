"""Memory for the arrays and tensors inside packed values (`checkpoint.objects`), and what is read into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ftslurm.checkpoint.arrays import ArraySource
from ftslurm.checkpoint.objects import ArraySpec, Packer
from ftslurm.checkpoint.reader import Want
from ftslurm.checkpoint.stage import Source
from ftslurm.core.rankindex import Kind
from ftslurm.core.strictjson import refuse

Known = Callable[[str], tuple[str, tuple[int, ...]] | None]
"""Type and shape of a key in the checkpoint."""


def sources_of(packer: Packer, kind: Kind) -> list[Source]:
    """Return the arrays that were met while packing, as pieces to be written."""
    return [_source(key, value, kind) for key, value in packer.arrays.items()]


def _source(key: str, value: Any, kind: Kind) -> Source:  # noqa: ANN401
    zeros = (0,) * len(value.shape)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return ArraySource(key=key, kind=kind, array=array, shape=array.shape, offsets=zeros)
    from ftslurm.checkpoint.torchplan import TensorSource

    return TensorSource(key, kind, tuple(value.shape), zeros, value.detach())


class Landing:
    """Where the arrays of one JSON value come to lie."""

    def __init__(self, known: Known, rank: int | None) -> None:
        """`rank` is the one whose own keys they are; None: common ones."""
        self._known = known
        self._rank = rank
        self._made: dict[ArraySpec, Any] = {}
        self.wants: list[Want] = []

    def prepare(self, specs: Iterable[ArraySpec]) -> None:
        """Make memory for these. Raises DataDamaged where the checkpoint does not hold what its JSON says."""
        for spec in specs:
            if spec.key and self._known(spec.key) != (spec.dtype, spec.shape):
                refuse(f"the checkpoint names {spec.key} as {spec.dtype}{list(spec.shape)}, and does not hold that")
            if not spec.key and 0 not in spec.shape:
                refuse("the checkpoint names an array without a place")
            self._made[spec], into = _new(spec)
            if spec.key:
                zeros = (0,) * len(spec.shape)
                self.wants.append(Want(key=spec.key, offsets=zeros, sizes=spec.shape, into=into, rank=self._rank))

    def __call__(self, spec: ArraySpec) -> Any:  # noqa: ANN401
        """Return the array, after it was read."""
        value = self._made[spec]
        return value[()] if spec.kind == "scalar" else value


def _new(spec: ArraySpec) -> tuple[Any, npt.NDArray[Any]]:
    """(the value, its memory as an array)."""
    if spec.kind != "torch":
        try:
            made = np.empty(spec.shape, dtype=np.dtype(spec.dtype))
        except TypeError:
            refuse(f"the checkpoint has NumPy values of {spec.dtype}")
        return made, made
    import torch

    from ftslurm.checkpoint.torchplan import as_array

    tensor = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))
    return tensor, as_array(tensor)
