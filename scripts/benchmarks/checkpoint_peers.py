"""What others do with the same state: the floor that memory and disk set, torch.save, DCP, safetensors.

Each function saves to, or loads from, a folder of its own, and returns the seconds that it took. Saves end with fsync:
what is not on the disk is not saved.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]

BLOCK_BYTES = 8 << 20
SHAPES = {
    "norm1.weight": (1024,),
    "norm1.bias": (1024,),
    "qkv.weight": (3072, 1024),
    "qkv.bias": (3072,),
    "out.weight": (1024, 1024),
    "out.bias": (1024,),
    "norm2.weight": (1024,),
    "norm2.bias": (1024,),
    "up.weight": (4096, 1024),
    "up.bias": (4096,),
    "down.weight": (1024, 4096),
    "down.bias": (1024,),
}


def state_of(mib: int) -> State:
    """The weights of a GPT of width 1024, as many blocks as fit; 48 MiB a block."""
    generator = torch.Generator().manual_seed(1)
    blocks = max(mib // 48, 1)
    names = [(f"blocks.{block}.{name}", shape) for block in range(blocks) for name, shape in SHAPES.items()]
    return {name: torch.randn(shape, generator=generator) for name, shape in names}


def size_of(state: State) -> int:
    """Bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def fsynced(path: Path) -> None:
    """Wait until a file and its name are on the disk."""
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------- floors


class Floor:
    """Memory and disk without anything around them. The buffer is kept, as ours is."""

    def __init__(self, state: State) -> None:
        self.size = -(-size_of(state) // BLOCK_BYTES) * BLOCK_BYTES
        self.buffer = mmap.mmap(-1, self.size)
        self.view = memoryview(self.buffer)
        self.targets = self._targets(state)
        self.memcpy(state)  # touch the pages

    def _targets(self, state: State) -> State:
        targets, at = {}, 0
        for name, tensor in state.items():
            flat = torch.frombuffer(self.view, dtype=tensor.dtype, count=tensor.numel(), offset=at)
            targets[name] = flat.view(tensor.shape)
            at += tensor.numel() * tensor.element_size()
        return targets

    def memcpy(self, state: State) -> float:
        """Copy the state into the kept buffer."""
        return timed(lambda: [self.targets[name].copy_(tensor) for name, tensor in state.items()])

    def write(self, path: Path) -> float:
        """Write the buffer by O_DIRECT, 8 MiB at a time, and fsync."""

        def work() -> None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
            try:
                for at in range(0, self.size, BLOCK_BYTES):
                    os.pwrite(descriptor, self.view[at : at + BLOCK_BYTES], at)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

        path.unlink(missing_ok=True)
        return timed(work)

    def read(self, path: Path) -> float:
        """Read a file into the buffer, 8 MiB at a time, through the page cache."""

        def work() -> None:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                for at in range(0, self.size, BLOCK_BYTES):
                    os.preadv(descriptor, [self.view[at : at + BLOCK_BYTES]], at)
            finally:
                os.close(descriptor)

        return timed(work)


# -------------------------------------------------------------------------------------------------------------- peers


def torch_save(state: State, folder: Path) -> float:
    """torch.save and fsync."""
    path = folder / "state.pt"

    def work() -> None:
        torch.save(state, path)
        fsynced(path)

    return timed(work)


def torch_load(state: State, folder: Path) -> float:
    """torch.load, and the copy into the tensors that are there."""
    return timed(lambda: _into(state, torch.load(folder / "state.pt", weights_only=True)))


def safetensors_save(state: State, folder: Path) -> float:
    """Safetensors and fsync."""
    path = folder / "state.safetensors"

    def work() -> None:
        save_file(state, path)
        fsynced(path)

    return timed(work)


def safetensors_load(state: State, folder: Path) -> float:
    """safetensors, and the copy into the tensors that are there."""
    return timed(lambda: _into(state, load_file(folder / "state.safetensors")))


def dcp_save(state: State, folder: Path) -> float:
    """dcp.save as it comes."""
    return timed(lambda: dcp.save(state, checkpoint_id=folder / "dcp", no_dist=True))


def dcp_load(state: State, folder: Path) -> float:
    """dcp.load as it comes."""
    return timed(lambda: dcp.load(state, checkpoint_id=folder / "dcp", no_dist=True))


def dcp_async(state: State, folder: Path) -> tuple[float, float]:
    """dcp.async_save as it comes: (until it returns, until it has saved)."""
    began = time.monotonic()
    future: Any = dcp.async_save(state, checkpoint_id=folder / "dcp-async", no_dist=True)
    blocking = time.monotonic() - began
    getattr(future, "upload_completion", future).result(timeout=600)
    return blocking, time.monotonic() - began


def _into(state: State, loaded: State) -> None:
    for name, tensor in state.items():
        tensor.copy_(loaded[name])
