"""Trains with everything that is random, and saves; may be killed in the middle of a save, and goes on afterwards.

    enduring.py FOLDER [--steps N] [--die-at N] [--every N]

`--die-at N`: the last rank is killed at its N-th fsync, so in the middle of writing a checkpoint. The last line is a
digest of weights, optimizer, random numbers and of the samples of every step since the beginning.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ftslurm.sampling import GlobalSampler
from ftslurm.training import attach

BATCH, SAMPLES = 12, 90


def mortal(count: int) -> None:
    """Let this process be killed at its `count`-th fsync."""
    sync, left = os.fsync, [count]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = fsync


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=23)
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--every", type=int, default=4)
    return parser.parse_args()


def seed(rank: int) -> None:
    """Each rank draws numbers of its own."""
    random.seed(rank)
    np.random.seed(rank)  # noqa: NPY002 - the generator that has to survive
    torch.manual_seed(100 + rank)


def draw() -> float:
    """A number of each generator that is not torch's."""
    return random.random() + float(np.random.rand())  # noqa: NPY002


def build(rank: int, size: int) -> nn.Module:
    """A model with dropout and buffers."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(5, 41), nn.Dropout(0.3), nn.BatchNorm1d(41), nn.Linear(41, 1))
    if size > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(model)
    seed(rank)
    return model


def digest(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Of both."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.numpy().tobytes())
    state = optimizer.state_dict()["state"]
    found.update(b"".join(tensor.numpy().tobytes() for key in sorted(state) for tensor in state[key].values()))
    return found.hexdigest()[:16]


def main() -> None:
    """Train to the end, or death."""
    args = parse()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    model = build(rank, size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 13], gamma=0.5)
    sampler = GlobalSampler(SAMPLES, global_batch=BATCH)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "sampler": sampler}
    run = attach(**parts, extra={"samples": ""}, folder=args.folder, every=args.every)
    step = run.restore() or 0
    if args.die_at and rank == size - 1:
        mortal(args.die_at)
    stream = iter(sampler)
    while step < args.steps and not run.should_stop():
        taken = list(itertools.islice(stream, BATCH // size))
        if not taken:
            stream = iter(sampler)
            continue
        x = torch.tensor(taken, dtype=torch.float32)[:, None] / SAMPLES + torch.randn(len(taken), 5) + draw()
        model(x).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        step += 1
        run.extra["samples"] = hashlib.sha256(f"{run.extra['samples']} {taken}".encode()).hexdigest()
        run.step(step)
        if args.die_at:
            run._saving._background.wait(60)
        if step % 50 == 0:
            print(f"at step {step}", flush=True)
    run.close()
    # What is in `extra` is the same on all ranks: that of rank 0 counts.
    rest = [run.extra["samples"] if rank == 0 else "", scheduler.get_last_lr(), sampler.state_dict()]
    print(
        f"last step {step} digest {digest(model, optimizer)} draws {draw()} {torch.rand(1).item()} rest {rest}",
        flush=True,
    )


if __name__ == "__main__":
    main()
