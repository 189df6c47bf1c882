"""A rank of `steps.py`: a small network trained by torch's DistributedDataParallel over gloo, and timed as it goes.

First comes what a step is made of, and steps, in turn: the arithmetic, which all ranks do at the same time without a
word to each other, an all-reduce of one number, and one of as many as there are gradients. Then a training with a beat
a step, as ftslurm sees it. Rank 0 writes what it has measured as JSON.
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
TIMES, FEWEST, SKIPPED = 3, 20, 5


def network() -> torch.nn.Sequential:
    """Eight MB of weights in two layers."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, samples: torch.Tensor) -> None:
    """One step on samples that stay the same: what they are does not change how long it takes."""
    (model(samples) - samples).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


class Part:
    """Something that is done again and again, and how long it takes: by the clock, and of it on a core."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.took_s: list[float] = []
        self.on_core: list[float] = []

    def do(self, times: int) -> None:
        """Do it, which all ranks begin together; the first time is not counted."""
        dist.barrier()
        self._work()
        for _ in range(times):
            began, used = time.perf_counter(), time.process_time()
            self._work()
            took_s = time.perf_counter() - began
            self.took_s.append(took_s)
            self.on_core.append((time.process_time() - used) / took_s)


def parts(samples: torch.Tensor, seconds: float) -> dict[str, Part]:
    """What a step is made of, and steps, in turn, so that whatever else the machine does meets all of them alike."""
    alone, together = network(), DistributedDataParallel(network())
    rates = [torch.optim.SGD(model.parameters(), lr=1e-3) for model in (alone, together)]
    few, many = torch.ones(1), torch.ones(LAYERS * WIDTH * WIDTH)
    found = {
        "arithmetic": Part(lambda: train_step(alone, rates[0], samples)),
        "small": Part(lambda: dist.all_reduce(few)),
        "large": Part(lambda: dist.all_reduce(many)),
        "step": Part(lambda: train_step(together, rates[1], samples)),
    }
    until = time.monotonic() + seconds
    while not over(until):
        for each in found.values():
            each.do(TIMES)
    return found


def over(until: float) -> bool:
    """Whether it is later than that for rank 0: all ranks have to stop at the same time."""
    said = torch.tensor([float(time.monotonic() > until)])
    dist.broadcast(said, 0)
    return bool(said.item())


def training(samples: torch.Tensor, seconds: float) -> list[float]:
    """Seconds of each step of a training that lasts about so long, and beats."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    took: list[float] = []
    until = time.monotonic() + seconds
    dist.barrier()
    while len(took) % FEWEST or not over(until):
        began = time.perf_counter()
        train_step(model, optimizer, samples)
        took.append(time.perf_counter() - began)
        beat(len(took))
    return took


def main() -> None:
    """Measure, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=float, required=True, help="seconds for what a step is made of")
    parser.add_argument("--seconds", type=float, required=True, help="seconds of training")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    samples = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(dist.get_rank()))
    measured = parts(samples, args.parts)
    trained_s = training(samples, args.seconds)[SKIPPED:]
    found = {
        "ranks": dist.get_world_size(),
        "size_bytes": 4 * LAYERS * WIDTH * WIDTH,
        **{f"{name}_s": median(part.took_s) for name, part in measured.items()},
        "on_core": median(measured["arithmetic"].on_core),
        "trained_s": median(trained_s),
        "load": os.getloadavg()[0],
    }
    if dist.get_rank() == 0:
        args.out.write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
