"""Trains small models in several ways and saves them, then restores them on several numbers of ranks.

    resharding.py FOLDER SIZE SIZE...

The first so many ranks save; then the first so many of each further number load. Each time rank 0 prints a line for each
kind of model: number of ranks, kind, what restore() said, and a digest, which is torch's own: the whole state,
gathered, as bytes in the order of the names. Starting torch is slow, so the processes are the same all the time.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ftslurm.training import attach

STEPS = 3


class Odd(nn.Module):
    """Sizes that no number of ranks divides; a weight that gets no gradient; buffers; one element."""

    def __init__(self, *, scalar: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 13)
        self.one, self.two = nn.Linear(13, 17), nn.Linear(17, 1)
        self.norm = nn.BatchNorm1d(17, affine=not scalar)
        self.frozen = nn.Parameter(torch.arange(7.0), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(1.0)) if scalar else nn.Parameter(torch.ones(1))

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """Some number."""
        return self.two(torch.relu(self.norm(self.one(self.table(index))))) * self.scale


def fsdp(model: nn.Module, *, replicate: bool = False) -> nn.Module:
    """Shard each layer; with `replicate` over half of the ranks only."""
    size = dist.get_world_size()
    shape, names = ((2, size // 2), ("r", "s")) if replicate and size % 2 == 0 else ((size,), ("s",))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    for layer in (model.one, model.two):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


KINDS = {
    "ddp": lambda: DistributedDataParallel(Odd(scalar=True)),
    "fsdp": lambda: fsdp(Odd(scalar=False)),
    "hsdp": lambda: fsdp(Odd(scalar=False), replicate=True),
    "half": lambda: fsdp(Odd(scalar=False).to(torch.bfloat16)),
}


def digest(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Of the whole of both."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model_state, optimizer_state = get_state_dict(model, optimizer, options=options)
    if dist.get_rank() != 0:
        return ""  # it was gathered for rank 0 alone
    found = hashlib.sha256()
    for name, value in sorted({**model_state, **optimizer_state["state"]}.items()):
        for key, tensor in sorted(value.items()) if isinstance(value, dict) else [("", value)]:
            found.update(f"{name} {key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    groups = [
        sorted(each for each in group.items() if each[0] != "params") for group in optimizer_state["param_groups"]
    ]
    found.update(repr(groups).encode())
    return found.hexdigest()[:16]


def stage(folder: Path, *, save: bool) -> None:
    """Every kind in turn."""
    for name, make in KINDS.items():
        torch.manual_seed(5 if save else 6)
        model = make()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2 if save else 1.0)
        run = attach(model=model, optimizer=optimizer, folder=folder / name, every=STEPS)
        restored = run.restore()
        for step in range(STEPS if save else 0):
            index = torch.randint(11, (6,), generator=torch.Generator().manual_seed(step))
            model(index).float().pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            run.step(step + 1)
        run.close()
        said = digest(model, optimizer)
        if dist.get_rank() == 0:
            print(f"{dist.get_world_size()} {name} {restored} {said}", flush=True)


def main() -> None:
    """One stage after the other; a rank that has no part in one is at the next one already, and waits there."""
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    for number, size in enumerate(map(int, sys.argv[2:])):
        if rank < size:
            store = dist.FileStore(str(folder / f"store-{number}"), size)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
            stage(folder, save=number == 0)
            dist.barrier()
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
