"""A program that says how far it is, and goes wrong as it is told: for tests of hangs, slow ranks and strange losses.

Every rank sums one number with the others in each step (gloo), and beats. In attempt 0 rank --odd leaves the others
alone at step --skip-at, works --slow seconds longer in every step, or tells a loss that is no number at step --nan-at.
Rank 0 saves at step --save-at, for --save-s seconds, in which the others wait for it. Every rank obeys the orders of
`ftslurm inject`. The program ends at --steps, or when the file --until exists.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from ftslurm.faults.willing import Willing
from ftslurm.training import beat, phase


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10**6)
    parser.add_argument("--until", type=Path, default=None)
    parser.add_argument("--pace", type=float, default=0.05)
    parser.add_argument("--odd", type=int, default=1)
    parser.add_argument("--skip-at", type=int, default=-1)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--nan-at", type=int, default=-1)
    parser.add_argument("--save-at", type=int, default=-1)
    parser.add_argument("--save-s", type=float, default=0.0)
    return parser.parse_args()


def leave_the_others_alone() -> None:
    """Wait for something that never comes."""
    threading.Event().wait()


def save(folder: Path, step: int, seconds: float) -> None:
    """Take some time for a checkpoint."""
    with phase("save"):
        time.sleep(seconds)
        part = folder / ".part"
        with part.open("w") as file:
            file.write(f"{step}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / f"step_{step:08d}.pt")


def main() -> None:
    """Count steps."""
    args, folder = parse(), Path(os.environ["FTSLURM_CHECKPOINT_DIR"])
    dist.init_process_group("gloo")
    rank, resume = dist.get_rank(), os.environ.get("FTSLURM_CHECKPOINT")
    odd = rank == args.odd and os.environ["FTSLURM_ATTEMPT"] == "0"
    step, over = int(Path(resume).read_text()) if resume else 0, torch.zeros(1)
    willing = Willing.from_environment()
    while step < args.steps and not over.item():
        began = time.monotonic()
        if odd and step == args.skip_at:
            leave_the_others_alone()
        told = willing.obey(step)
        time.sleep(args.pace + (args.slow if odd else 0.0))
        worked_s = time.monotonic() - began
        over = torch.tensor([float(args.until is not None and args.until.exists())])
        dist.all_reduce(over)
        step += 1
        nan = told.nan or (odd and step == args.nan_at)
        beat(step, loss=float("nan") if nan else 1.0 / step, busy_s=worked_s)
        if rank == 0 and (step % 20 == 0 or step == args.save_at):
            save(folder, step, args.save_s if step == args.save_at else 0.0)
    print(f"rank {rank} ends at step {step}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
