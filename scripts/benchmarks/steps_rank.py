"""A rank of `steps.py`: a small network trained by torch's DistributedDataParallel over gloo, and timed as it goes.

First come what the model of a step is made of, measured on their own: the arithmetic of a step, which all ranks do at
the same time without a word to each other, and an all-reduce of few bytes and of as many as there are gradients. Then
the training, with a beat a step. Rank 0 writes what it has measured as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ftslurm.training import beat

WIDTH, LAYERS, BATCH = 1024, 2, 128
WARM, TIMES, SMALL = 3, 15, 4
FEWEST = 20


def network() -> torch.nn.Sequential:
    """Eight MB of weights in two layers."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, samples: torch.Tensor) -> None:
    """One step on samples that stay the same: what they are does not change how long it takes."""
    (model(samples) - samples).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def timed(work: Callable[[], object]) -> list[float]:
    """Seconds of each of some calls, which all ranks begin together; the first ones are not counted."""
    took = []
    for _ in range(WARM + TIMES):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return took[WARM:]


def arithmetic(samples: torch.Tensor) -> float:
    """Seconds of a step in which no rank waits for another."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    dist.barrier()
    return median(timed(lambda: train_step(model, optimizer, samples)))


def all_reduce(size_bytes: int) -> float:
    """Seconds of an all-reduce."""
    numbers = torch.ones(size_bytes // 4)
    dist.barrier()
    return median(timed(lambda: dist.all_reduce(numbers)))


def training(samples: torch.Tensor, seconds: float) -> list[float]:
    """Seconds of each step of a training that lasts about so long; rank 0 decides when it is over."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    took: list[float] = []
    over = torch.zeros(1)
    until = time.monotonic() + seconds
    dist.barrier()
    while not over.item():
        began = time.perf_counter()
        train_step(model, optimizer, samples)
        took.append(time.perf_counter() - began)
        beat(len(took))
        if len(took) % FEWEST == 0:
            over.fill_(float(time.monotonic() > until))
            dist.broadcast(over, 0)
    return took


def main() -> None:
    """Measure, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    samples = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(dist.get_rank()))
    size_bytes = 4 * LAYERS * WIDTH * WIDTH
    found = {
        "ranks": dist.get_world_size(),
        "size_bytes": size_bytes,
        "arithmetic_s": arithmetic(samples),
        "small_s": all_reduce(SMALL),
        "large_s": all_reduce(size_bytes),
        "steps_s": training(samples, args.seconds),
        "load": os.getloadavg()[0],
    }
    if dist.get_rank() == 0:
        args.out.write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
