"""State of torch programs as pieces of a checkpoint, and back: plain modules, DDP and FSDP2 (DTensor), any optimizer.

What belongs to which rank is torch's own business: the state-dict helpers and planners of torch.distributed.checkpoint
(DCP) say which box of which tensor this rank holds, and which saved boxes it needs on another number of ranks. Here is
none of its storage, none of its pickles and none of its collectives: each rank plans alone, and a tensor that several
ranks hold is written by one of them, chosen by a hash of its name. Buffers are taken from rank 0, because DDP gives
rank 0's to all. Whatever is no tensor goes through `checkpoint.objects`.

Loading reads straight into the memory of the tensors where that is the host's, and through a pinned buffer where it
is a GPU's. Traps met here: the helpers make an optimizer step with zero gradients to create the state of a fresh
optimizer, so a fresh one is put back after a save; the state of a parameter that never had a gradient is not saved,
and is dropped again after a load.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from ftslurm.checkpoint.arrays import writer_of
from ftslurm.checkpoint.objects import Packer
from ftslurm.checkpoint.stage import anonymous_memory
from ftslurm.core.rankindex import Kind
from ftslurm.errors import DataDamaged, UsageError

MODEL, OPTIMIZER, EXTRA = "model", "optimizer", "extra"
_SAME_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
_BOUNCE_BYTES = 256 << 20


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
        return self.tensor.numel() * self.tensor.element_size()

    def copy_to(self, target: memoryview) -> None:
        """Copy it, from a GPU without waiting for the end: `settle` does."""
        staged = torch.frombuffer(target, dtype=torch.uint8, count=self.nbytes).view(self.tensor.dtype)
        staged.view(self.tensor.shape).copy_(self.tensor, non_blocking=True)


def settle() -> None:
    """Wait until all copies from the GPU are done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()


class TorchState:
    """The state of models and optimizers on this rank."""

    def __init__(self, model: Any, optimizer: Any, extra: Mapping[str, torch.Tensor], world: tuple[int, int]) -> None:  # noqa: ANN401
        """`model` and `optimizer`: one, several by name, or None; `extra`: further tensors; `world`: rank and size.

        Raises:
            UsageError: a kind of model or optimizer that cannot be saved.
        """
        self._model = model if isinstance(model, nn.Module) else nn.ModuleDict(dict(model or {}))
        self._extra = {f"{EXTRA}.{name}": tensor for name, tensor in extra.items()}
        several = list(optimizer.values()) if isinstance(optimizer, Mapping) else optimizer
        self._optimizers: list[torch.optim.Optimizer] = (
            list(several) if isinstance(several, list | tuple) else [] if several is None else [several]
        )
        self._rank, self._size = world
        for module in self._model.modules():
            if type(module).__name__ == "FullyShardedDataParallel":
                raise UsageError(
                    "FullyShardedDataParallel (FSDP1) gathers its state with collectives, which a save must not do",
                    hint="use torch.distributed.fsdp.fully_shard (FSDP2)",
                )

    def layout(self) -> str:
        """Return a digest of the names and shapes of the model's tensors: the same on every rank, or it cannot work."""
        lines = [f"{key} {tuple(value.shape)}" for key, value in self._tensors_of_model().items()]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    # ----------------------------------------------------------------------------------------------------- saving

    def sources(self, packer: Packer) -> tuple[list[TensorSource], dict[str, Any]]:
        """Return the boxes that this rank writes, and the JSON of what is no tensor.

        Raises:
            UsageError: something cannot be saved; the message says where.
        """
        tensors, record = dict(self._extra), {}
        for key, value in self._model_state().items():
            if isinstance(value, torch.Tensor):
                tensors[f"{MODEL}.{key}"] = value
            else:
                record.setdefault(MODEL, {})[key] = packer.pack(value, f"{MODEL}/{key}")
        if self._optimizers:
            with _fresh_ones_untouched(self._optimizers) as fresh:
                state = self._optimizer_state()
            _forget(state, self._optimizers, fresh)
            record[OPTIMIZER] = _split(state, OPTIMIZER, tensors, packer)
        return list(self._own(tensors)), record

    def _own(self, tensors: Mapping[str, torch.Tensor]) -> Iterator[TensorSource]:
        """The boxes that are this rank's to write, after DCP's plan."""
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner({key: _strided(key, value) for key, value in tensors.items()}, is_coordinator=True)
        parameters = {f"{MODEL}.{name}" for name in self._parameter_names()}
        for item in planner.create_local_plan().items:
            key, data = item.index.fqn, item.tensor_data
            value = tensors[key]
            if data is None or 0 in data.size or 0 in data.chunk.sizes:
                continue
            hashed = key in parameters or not key.startswith(f"{MODEL}.")
            if isinstance(value, DTensor):
                mine = _is_writer(key, value)
            else:
                mine = self._rank == (writer_of(key, self._size) if hashed else 0)
            if mine:
                whole = tuple(data.chunk.sizes) == tuple(data.size)
                yield TensorSource(
                    key=key,
                    kind=Kind.REPLICATED if whole else Kind.SHARDED,
                    shape=tuple(data.size),
                    offsets=tuple(data.chunk.offsets),
                    tensor=planner.resolve_data(item).detach(),
                )

    # ---------------------------------------------------------------------------------------------------- loading

    def destinations(self, saved: Collection[str]) -> dict[str, torch.Tensor]:
        """Return all tensors by key; what is read into them is the state of model and optimizer (`finish` sees to it).

        What an optimizer keeps of a parameter is left out where the checkpoint, which has the keys `saved`, has none.

        Raises:
            UsageError: an optimizer whose state cannot be created beforehand.
        """
        tensors = self._extra | {f"{MODEL}.{key}": value for key, value in self._tensors_of_model().items()}
        if self._optimizers:
            state: dict[str, torch.Tensor] = {}
            _split(self._optimizer_state(), OPTIMIZER, state, Packer())
            tensors |= {key: value for key, value in state.items() if key in saved}
        return tensors

    def finish(self, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> None:
        """Give the optimizer its groups and the models what is no tensor; `record` is what `sources` gave, unpacked."""
        state = dict(record.get(MODEL, {}))
        ours = {_place(value) for value in (*self._model.parameters(), *self._model.buffers())}
        copies = {key: value for key, value in self._tensors_of_model().items() if _place(value) not in ours}
        if state or copies:
            whole = {
                key.removeprefix(f"{MODEL}."): value for key, value in tensors.items() if key.startswith(f"{MODEL}.")
            }
            set_model_state_dict(self._model, {**whole, **state})
        if self._optimizers:
            if OPTIMIZER not in record:
                raise UsageError(
                    "the checkpoint has no optimizer", hint="leave it out of attach, or use another folder"
                )
            options = StateDictOptions(strict=False)
            joined = _join(record[OPTIMIZER], tensors)
            set_optimizer_state_dict(self._model, tuple(self._optimizers), joined, options=options)

    def _parameter_names(self) -> set[str]:
        """As the state dict spells them."""
        places = {_place(value) for value in self._model.parameters()}
        return {key for key, value in self._tensors_of_model().items() if _place(value) in places}

    def _model_state(self) -> dict[str, Any]:
        return dict(get_model_state_dict(self._model))

    def _tensors_of_model(self) -> dict[str, torch.Tensor]:
        return {key: value for key, value in self._model_state().items() if isinstance(value, torch.Tensor)}

    def _optimizer_state(self) -> dict[str, Any]:
        try:
            return dict(get_optimizer_state_dict(self._model, tuple(self._optimizers)))
        except (TypeError, RuntimeError, KeyError, AssertionError) as error:
            names = ", ".join(type(each).__name__ for each in self._optimizers)
            raise UsageError(f"the state of {names} cannot be saved: {error!r}") from error


# --------------------------------------------------------------------------------------------------------- plans


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
        return self.target.device.type == "cpu"

    @property
    def nbytes(self) -> int:
        """Of the box."""
        return self.target.numel() * self.target.element_size()


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


def as_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the memory of a tensor on the host as an array of the same item size."""
    return tensor.view(_SAME_SIZE[tensor.element_size()]).numpy()


def landings(wanted: Sequence[Read]) -> Iterator[tuple[list[Read], list[np.ndarray[Any, Any]]]]:
    """Yield reads with the memory to read into; what was read for a GPU is copied there when the next is asked for."""
    direct = [read for read in wanted if read.direct]
    if direct:
        yield direct, [as_array(read.target) for read in direct]
    bounced = [read for read in wanted if not read.direct]
    largest = max(map(_padded, bounced), default=0)
    buffer = torch.empty(max(largest, min(_BOUNCE_BYTES, _total(bounced))), dtype=torch.uint8, pin_memory=bool(bounced))
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
    """Its bytes, up to the next border at which an element of any type may lie."""
    return -(-read.nbytes // 16) * 16


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


def _is_writer(key: str, value: DTensor) -> bool:
    """Of the ranks that hold the same box of a DTensor, one writes it: the one that a hash of the name chooses."""
    coordinate = value.device_mesh.get_coordinate()
    if coordinate is None:
        return False
    for dimension, placement in enumerate(value.placements):
        if placement.is_partial():
            raise UsageError(f"{key} cannot be saved: its parts are not summed up yet (Partial)")
        if placement.is_replicate():
            writer = writer_of(f"{key} {dimension}", value.device_mesh.size(dimension))
            if coordinate[dimension] != writer:
                return False
    return True


def _strided(key: str, value: torch.Tensor) -> torch.Tensor:
    if value.is_sparse or value.is_quantized or value.is_meta:
        raise UsageError(f"{key} cannot be saved: it is a sparse, quantised or meta tensor")
    return value


def _place(tensor: torch.Tensor) -> tuple[int, int]:
    """Where a tensor's own memory lies."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.data_ptr(), local.numel()


# ------------------------------------------------------------------------------------------- optimizers' state


def _split(value: Any, path: str, tensors: dict[str, torch.Tensor], packer: Packer) -> Any:  # noqa: ANN401 - JSON
    """Move the tensors of a nested state into `tensors`, and return JSON that names them."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value
        return {"$tensor": [path, str(value.dtype).removeprefix("torch."), list(value.shape)]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _split(each, f"{path}.{key}", tensors, packer) for key, each in value.items()}
    if isinstance(value, list):
        return [_split(each, f"{path}.{index}", tensors, packer) for index, each in enumerate(value)]
    return packer.pack(value, path)


def _join(record: Any, tensors: Mapping[str, torch.Tensor]) -> Any:  # noqa: ANN401
    """The opposite of `_split`, once the rest is unpacked."""
    if isinstance(record, dict) and set(record) == {"$tensor"}:
        key = record["$tensor"][0]
        if key not in tensors:
            raise DataDamaged(f"the checkpoint names {key}, which it does not hold")
        return tensors[key]
    if isinstance(record, dict):
        return {key: _join(each, tensors) for key, each in record.items()}
    if isinstance(record, list):
        return [_join(each, tensors) for each in record]
    return record


@contextmanager
def _fresh_ones_untouched(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[list[torch.optim.Optimizer]]:
    """Looking at the state of an optimizer that has none creates it: take it away again."""
    fresh = [each for each in optimizers if not each.state]
    try:
        yield fresh
    finally:
        for each in fresh:
            each.state.clear()


def _forget(
    state: dict[str, Any], optimizers: Sequence[torch.optim.Optimizer], fresh: Sequence[torch.optim.Optimizer]
) -> None:
    """Leave out what was only created by looking; the groups are listed in the order of the optimizers."""
    groups = iter(state["param_groups"])
    for optimizer in optimizers:
        for group in itertools.islice(groups, len(optimizer.param_groups)):
            for name in group["params"] if optimizer in fresh else ():
                state["state"].pop(name, None)


def host_memory(size: int) -> memoryview:
    """Memory to stage a save in; page-locked where there is a GPU, so that it can copy there by itself.

    torch's own pinned memory comes in powers of two; this is registered as it is. Where the driver refuses (a limit on
    locked memory), plain memory serves, more slowly.
    """
    memory = anonymous_memory(size)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        address = np.frombuffer(memory, dtype=np.uint8).ctypes.data
        torch.cuda.cudart().cudaHostRegister(address, size, 0)
    return memory
