"""A program that fails on purpose: at one step of one rank, in one of the ways in which programs fail.

`--how`: `exit:CODE`, `signal:NAME`, `exception`, `hang` (stops counting, stays alive). With `--marker PATH` it fails
only while PATH does not exist, and creates it when it fails, so the next attempt gets through; without it, always.
Counts to --steps with --pace seconds a step; rank and attempt come from the environment. Rank 0 leaves a checkpoint of
plain text every --every steps and goes on from --resume.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path


class PlannedFailure(RuntimeError):
    """The exception that was asked for."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--how", default="exit:3")
    parser.add_argument("--rank", type=int, default=0, help="the rank that fails")
    parser.add_argument("--at", type=int, default=5, help="the step at which it fails")
    parser.add_argument("--marker", type=Path, help="fail once: while this file does not exist")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=0, help="steps between checkpoints; 0: never")
    parser.add_argument("--pace", type=float, default=0.05)
    parser.add_argument("--checkpoints", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT_DIR") or "checkpoints")
    parser.add_argument("--resume", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT") or None)
    return parser.parse_args()


def fail(how: str) -> None:
    """Fail in the way `how`; returns only if the signal was not deadly."""
    kind, _, detail = how.partition(":")
    if kind == "exit":
        sys.exit(int(detail))
    if kind == "signal":
        os.kill(os.getpid(), signal.Signals[detail])
    if kind == "exception":
        raise PlannedFailure("failed as planned")
    if kind == "hang":
        signal.pause()


def save(folder: Path, step: int) -> None:
    """Write one checkpoint of a line."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".step_{step:08d}"
    part.write_text(f"{step}\n")
    part.replace(folder / f"step_{step:08d}.pt")


def main() -> None:
    """Count to --steps, and fail on the way."""
    args = parse()
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    step = 0
    if args.resume:
        step = int((max(args.resume.glob("step_*.pt")) if args.resume.is_dir() else args.resume).read_text())
    print(f"rank {rank} attempt {os.environ.get('FTSLURM_ATTEMPT', '-')} starts at step {step}", flush=True)
    while step < args.steps:
        if rank == args.rank and step == args.at and not (args.marker and args.marker.exists()):
            if args.marker:
                args.marker.touch()
            fail(args.how)
        time.sleep(args.pace)
        step += 1
        if rank == 0 and args.every and step % args.every == 0:
            save(args.checkpoints, step)
    print(f"rank {rank} done at step {step}", flush=True)


if __name__ == "__main__":
    main()
