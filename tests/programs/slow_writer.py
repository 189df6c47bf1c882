"""A program that writes its checkpoints slowly and in place, under their final names: what a reader must not trust.

Every checkpoint `step_<n>.pt` is a real `torch.save` of --mb megabytes, written in --chunks pieces with --pause seconds
between them. With `--die-at N` the process kills itself in the middle of checkpoint N, with `--stop-at N` it stops
itself there (SIGSTOP), so that half a file stays behind, as a crashed or frozen writer leaves it.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import time
from pathlib import Path

import torch


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="checkpoints to write")
    parser.add_argument("--mb", type=float, default=8)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.1)
    parser.add_argument(
        "--rest", type=float, default=3, help="seconds between two checkpoints: time for them to settle"
    )
    parser.add_argument("--die-at", type=int, default=-1)
    parser.add_argument("--stop-at", type=int, default=-1)
    parser.add_argument("--marker", type=Path, help="die or stop only while this file does not exist")
    parser.add_argument("--checkpoints", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT_DIR") or "checkpoints")
    parser.add_argument("--resume", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT") or None)
    return parser.parse_args()


def harm(args: argparse.Namespace, step: int) -> None:
    """Die or stop if this is the checkpoint to do so."""
    number = {args.die_at: signal.SIGKILL, args.stop_at: signal.SIGSTOP}.get(step)
    if number is None or (args.marker and args.marker.exists()):
        return
    if args.marker:
        args.marker.touch()
    os.kill(os.getpid(), number)


def write(args: argparse.Namespace, step: int) -> None:
    """One checkpoint, in pieces, under its final name."""
    buffer = io.BytesIO()
    torch.save({"step": step, "state": torch.full((int(args.mb * 2**18),), float(step))}, buffer)
    data = buffer.getvalue()
    size = -(-len(data) // args.chunks)
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    with (args.checkpoints / f"step_{step:08d}.pt").open("wb") as file:
        for index in range(args.chunks):
            if index == args.chunks // 2:
                harm(args, step)
            file.write(data[index * size : (index + 1) * size])
            file.flush()
            time.sleep(args.pause)
        os.fsync(file.fileno())


def main() -> None:
    """Write the checkpoints that are missing; only rank 0 writes, the others wait as long."""
    args = parse()
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    done = 0
    if args.resume:
        path = max(args.resume.glob("step_*.pt")) if args.resume.is_dir() else args.resume
        state = torch.load(path, weights_only=True)
        done = int(state["step"])
        if not torch.all(state["state"] == done):
            raise SystemExit(f"{path}: not the bytes that were saved")
    print(f"rank {rank} starts after checkpoint {done}", flush=True)
    for step in range(done + 1, args.steps + 1):
        if rank == 0:
            write(args, step)
        else:
            time.sleep(args.chunks * args.pause)
        time.sleep(args.rest)
    print(f"rank {rank} done after checkpoint {args.steps}", flush=True)


if __name__ == "__main__":
    main()
