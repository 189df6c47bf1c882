"""State of torch programs as pieces of a checkpoint, and back: plain modules, DDP and FSDP2 (DTensor), any optimizer.

What belongs to which rank is torch's own business: the state-dict helpers and planners of torch.distributed.checkpoint
(DCP) say which box of which tensor this rank holds, and which saved boxes it needs on another number of ranks. Here is
none of its storage, none of its pickles and none of its collectives: each rank plans alone, and a tensor that several
ranks hold is written by one of them, chosen by a hash of its name. Buffers are taken from rank 0, because DDP gives
rank 0's to all. Whatever is no tensor goes through `checkpoint.objects`.

Traps met here: the helpers make an optimizer step with zero gradients to create the state of a fresh optimizer, so a
fresh one is put back after a save; they create none where there are gradients already; the state of a parameter that
never had a gradient is not saved, and is dropped again after a load.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import DefaultSavePlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from ftslurm.checkpoint.arrays import writer_of
from ftslurm.checkpoint.objects import Packer, is_plain
from ftslurm.checkpoint.torchplan import TensorSource
from ftslurm.core.rankindex import Kind
from ftslurm.errors import DataDamaged, UsageError

MODEL, OPTIMIZER, EXTRA = "model", "optimizer", "extra"


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
        tensors: dict[str, torch.Tensor] = dict(self._extra)
        record: dict[str, Any] = {}
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
        places = {_place(value) for value in self._model.parameters()}
        buffers = {key for key, value in tensors.items() if key.startswith(f"{MODEL}.") and _place(value) not in places}
        return list(self._own(tensors, buffers)), record

    def _own(self, tensors: Mapping[str, torch.Tensor], buffers: Collection[str]) -> Iterator[TensorSource]:
        """The boxes that are this rank's to write. A plain tensor is one box; DCP plans those of DTensors."""
        spread = {key: value for key, value in tensors.items() if isinstance(value, DTensor)}
        for key, value in tensors.items():
            _check_strided(key, value)
            writer = 0 if key in buffers else writer_of(key, self._size)
            if key not in spread and self._rank == writer and 0 not in value.shape:
                zeros = (0,) * value.dim()
                yield TensorSource(key, Kind.REPLICATED, tuple(value.shape), zeros, value.detach())
        yield from _planned(spread)

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
            with _gradients_aside(self._optimizers):
                _split(self._optimizer_state(), OPTIMIZER, state, Packer())
            tensors |= {key: value for key, value in state.items() if key in saved or 0 in value.shape}
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
            states = dict(joined["state"])
            set_optimizer_state_dict(self._model, tuple(self._optimizers), joined, options=options)
            self._restore_frozen(states)

    def _restore_frozen(self, states: Mapping[str, Any]) -> None:
        """The helper leaves out what an optimizer keeps of weights that are not trained (Adagrad does).

        Which weight has which name is told by the order in the groups: on a rank that has nothing of several weights,
        their memory does not tell them apart.
        """
        if not states:
            return
        with _fresh_ones_untouched(self._optimizers):
            named = self._optimizer_state()["param_groups"]
        groups = [(optimizer, group) for optimizer in self._optimizers for group in optimizer.param_groups]
        for (optimizer, group), names in zip(groups, named, strict=True):
            for parameter, name in zip(group["params"], names["params"], strict=True):
                if not parameter.requires_grad and name in states:
                    optimizer.state[parameter] = states[name]

    def _model_state(self) -> dict[str, Any]:
        if next(self._model.parameters(), None) is None and next(self._model.buffers(), None) is None:
            return dict(self._model.state_dict())  # the helper takes no model without tensors
        return dict(get_model_state_dict(self._model))

    def _tensors_of_model(self) -> dict[str, torch.Tensor]:
        return {key: value for key, value in self._model_state().items() if isinstance(value, torch.Tensor)}

    def _optimizer_state(self) -> dict[str, Any]:
        try:
            return dict(get_optimizer_state_dict(self._model, tuple(self._optimizers)))
        except (TypeError, RuntimeError, KeyError, AssertionError) as error:
            names = ", ".join(type(each).__name__ for each in self._optimizers)
            raise UsageError(f"the state of {names} cannot be saved: {error!r}") from error


def _planned(tensors: Mapping[str, DTensor]) -> Iterator[TensorSource]:
    """This rank's boxes of DTensors."""
    if not tensors:
        return
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(tensors), is_coordinator=True)
    for item in planner.create_local_plan().items:
        key, data = item.index.fqn, item.tensor_data
        if data is None or 0 in data.size or 0 in data.chunk.sizes or not _is_writer(key, tensors[key]):
            continue
        whole = tuple(data.chunk.sizes) == tuple(data.size)
        yield TensorSource(
            key=key,
            kind=Kind.REPLICATED if whole else Kind.SHARDED,
            shape=tuple(data.size),
            offsets=tuple(data.chunk.offsets),
            tensor=planner.resolve_data(item).detach(),
        )


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


def _check_strided(key: str, value: torch.Tensor) -> None:
    if value.is_sparse or value.is_quantized or value.is_meta:
        raise UsageError(f"{key} cannot be saved: it is a sparse, quantised or meta tensor")


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
        named = {key: _split(each, f"{path}.{key}", tensors, packer) for key, each in value.items()}
        return named if is_plain(named) else {"$dict": [[key, each] for key, each in named.items()]}
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
def _gradients_aside(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """The helper creates no state where there are gradients: it takes the optimizer for one that needs none."""
    groups = itertools.chain.from_iterable(optimizer.param_groups for optimizer in optimizers)
    kept = [(parameter, parameter.grad) for group in groups for parameter in group["params"]]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


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
