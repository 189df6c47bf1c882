"""Trains with everything that is random, and saves; may be killed in the middle of a save, and goes on afterwards.

    enduring.py FOLDER [--steps N] [--die-at N] [--every N]

`--die-at N`: rank 1 (or the only one) is killed at its N-th fsync, so in the middle of writing a checkpoint. The last
line is a digest of weights, optimizer, random numbers and of the samples of every step since the beginning.
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


def mortal(count: int) -> None:
    """Let this process be killed at its `count`-th fsync."""
    sync, left = os.fsync, [count]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = fsync


def main() -> None:
    """Train to the end, or death."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=23)
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--every", type=int, default=4)
    args = parser.parse_args()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    random.seed(rank)
    np.random.seed(rank)
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(5, 41), nn.Dropout(0.3), nn.BatchNorm1d(41), nn.Linear(41, 1))
    if size > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(model)
    torch.manual_seed(100 + rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 13], gamma=0.5)
    sampler = GlobalSampler(90, global_batch=12)
    run = attach(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        sampler=sampler,
        extra={"samples": ""},
        folder=args.folder,
        every=args.every,
    )
    step = run.restore() or 0
    if args.die_at and rank == size - 1:
        mortal(args.die_at)
    share = 12 // size
    stream = iter(sampler)
    while step < args.steps and not run.should_stop():
        taken = list(itertools.islice(stream, share))
        if not taken:
            stream = iter(sampler)
            continue
        noise = random.random() + np.random.rand()
        x = torch.tensor(taken, dtype=torch.float32)[:, None] / 90 + torch.randn(share, 5) + noise
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        step += 1
        run.extra["samples"] = hashlib.sha256(f"{run.extra['samples']} {taken}".encode()).hexdigest()
        run.step(step, loss=loss.item())
        if args.die_at:
            run._saving.wait(60)
        if step % 50 == 0:
            print(f"at step {step}", flush=True)
    run.close()
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.numpy().tobytes())
    state = optimizer.state_dict()["state"]
    found.update(b"".join(tensor.numpy().tobytes() for key in sorted(state) for tensor in state[key].values()))
    # The text of rank 0 counts: what is in `extra` is the same on all ranks.
    rest = [run.extra["samples"] if rank == 0 else "", scheduler.get_last_lr(), sampler.state_dict()]
    draws = [random.random(), np.random.rand(), torch.rand(1).item()]
    print(f"last step {step} digest {found.hexdigest()[:16]} draws {draws} rest {rest}", flush=True)


if __name__ == "__main__":
    main()
