"""Tensors of torch as memory: what a rank writes of them, and what it reads into them after DCP's plan.

Reading goes straight into the memory of a tensor where that is the host's, and through a page-locked buffer where it is
a GPU's.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from ftslurm.checkpoint.stage import anonymous_memory
from ftslurm.core.rankindex import Kind
from ftslurm.errors import UsageError

_SAME_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
_BOUNCE_BYTES = 256 << 20
_ALIGN = 16
"""At a multiple of this an element of any type may lie."""


@dataclass(frozen=True, slots=True)
class TensorSource:
    """One box of a tensor that this rank writes."""

    key: str
    kind: Kind
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    tensor: torch.Tensor

    @property
    def dtype(self) -> str:
        """As torch calls it."""
        return str(self.tensor.dtype).removeprefix("torch.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the box."""
        return tuple(self.tensor.shape)

    @property
    def nbytes(self) -> int:
        """Of the box."""
        return int(self.tensor.numel() * self.tensor.element_size())

    @property
    def memory(self) -> npt.NDArray[np.uint8] | None:
        """The tensor's own memory, where it lies on the host as it is to be written."""
        tensor = self.tensor
        plain = tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
        return tensor.reshape(-1).view(torch.uint8).numpy() if plain and sys.byteorder == "little" else None

    def copy_to(self, target: memoryview) -> None:
        """Copy it, from a GPU without waiting for the end: `settle` does."""
        staged = torch.frombuffer(target, dtype=torch.uint8, count=self.nbytes).view(self.tensor.dtype)
        staged.view(self.tensor.shape).copy_(self.tensor, non_blocking=True)


def settle() -> None:
    """Wait until all copies from the GPU are done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()


def host_memory(size: int) -> memoryview:
    """Memory to stage a save in; page-locked where there is a GPU, so that it can copy there by itself.

    torch's own pinned memory comes in powers of two; this is registered as it is. Where the driver refuses (a limit on
    locked memory), plain memory serves, more slowly.
    """
    memory = anonymous_memory(size)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        address, driver = np.frombuffer(memory, dtype=np.uint8).ctypes.data, torch.cuda.cudart()
        if int(driver.cudaHostRegister(address, size, 0)) == 0:
            weakref.finalize(memory.obj, driver.cudaHostUnregister, address)
    return memory


@dataclass(frozen=True, slots=True)
class Read:
    """One box to be read: into `into` at once where that is possible, else `target` is copied to afterwards."""

    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    target: torch.Tensor

    @property
    def direct(self) -> bool:
        """Whether the bytes can be read into the tensor's own memory."""
        return str(self.target.device.type) == "cpu"

    @property
    def nbytes(self) -> int:
        """Of the box."""
        return int(self.target.numel() * self.target.element_size())


def reads(tensors: Mapping[str, torch.Tensor], saved: Mapping[str, SavedTensor]) -> list[Read]:
    """Return what this rank must read to fill its tensors, after DCP's plan.

    Raises:
        UsageError: the program's tensors are not those of the checkpoint.
    """
    wanted = {key: value for key, value in tensors.items() if 0 not in value.shape}
    _check_fit(wanted, saved)
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    described = {key: _described(each) for key, each in saved.items() if key in wanted}
    planner.set_up_planner(wanted, Metadata(state_dict_metadata=described))
    found = []
    for item in planner.create_local_plan().items:
        if 0 in item.lengths:
            continue
        at = item.storage_index.offset or torch.Size([0] * len(item.lengths))
        offsets = tuple(first + more for first, more in zip(at, item.storage_offsets, strict=True))
        target = planner.resolve_tensor(item).detach()
        found.append(Read(item.dest_index.fqn, offsets, tuple(item.lengths), target))
    return found


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """What a checkpoint has of a tensor: `boxes` are (offsets, sizes), which tile it."""

    dtype: str
    shape: tuple[int, ...]
    boxes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


def as_array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Return the memory of a tensor on the host as an array of the same item size."""
    array: npt.NDArray[Any] = tensor.view(_SAME_SIZE[tensor.element_size()]).numpy()
    return array


def landings(wanted: Sequence[Read]) -> Iterator[tuple[list[Read], list[npt.NDArray[Any]]]]:
    """Yield reads with the memory to read into; what was read for a GPU is copied there when the next is asked for."""
    direct = [read for read in wanted if read.direct]
    if direct:
        yield direct, [as_array(read.target) for read in direct]
    bounced = [read for read in wanted if not read.direct]
    if not bounced:
        return
    largest = max(map(_padded, bounced))
    buffer = torch.empty(
        max(largest, min(_BOUNCE_BYTES, _total(bounced))), dtype=torch.uint8, pin_memory=torch.cuda.is_available()
    )
    for batch in _batches(bounced, len(buffer)):
        starts = itertools.accumulate(map(_padded, batch), initial=0)
        hosts = [_cut(buffer, start, read.target) for start, read in zip(starts, batch, strict=False)]
        yield batch, [as_array(host) for host in hosts]
        for read, host in zip(batch, hosts, strict=True):
            read.target.copy_(host, non_blocking=True)
        settle()


def _cut(buffer: torch.Tensor, start: int, like: torch.Tensor) -> torch.Tensor:
    """Room for a tensor in the buffer."""
    size = like.numel() * like.element_size()
    return buffer[start : start + size].view(like.dtype).view(like.shape)


def _total(wanted: Sequence[Read]) -> int:
    return sum(map(_padded, wanted))


def _padded(read: Read) -> int:
    """Its bytes, up to the next border."""
    return -(-read.nbytes // _ALIGN) * _ALIGN


def _batches(wanted: Sequence[Read], limit: int) -> Iterator[list[Read]]:
    """Cut into lists of at most so many bytes, at least one each."""
    batch: list[Read] = []
    for read in wanted:
        if batch and _total(batch) + _padded(read) > limit:
            yield batch
            batch = []
        batch.append(read)
    if batch:
        yield batch


def _described(saved: SavedTensor) -> TensorStorageMetadata:
    chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in saved.boxes]
    properties = TensorProperties(dtype=getattr(torch, saved.dtype))
    return TensorStorageMetadata(properties=properties, size=torch.Size(saved.shape), chunks=chunks)


def _check_fit(wanted: Mapping[str, torch.Tensor], saved: Mapping[str, SavedTensor]) -> None:
    """The program's tensors and the checkpoint's must be the same, or the user mixes two programs."""
    wrong = []
    for key, tensor in wanted.items():
        ours = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        if key not in saved:
            wrong.append(f"{key} is not in the checkpoint")
        elif ours != (saved[key].dtype, saved[key].shape):
            wrong.append(f"{key} is {saved[key].dtype}{list(saved[key].shape)} there, {ours[0]}{list(ours[1])} here")
    wrong += [f"{key} is not in the program" for key in saved if key not in wanted]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UsageError(f"the checkpoint is of another program: {'; '.join(wrong[:5])}{more}")
