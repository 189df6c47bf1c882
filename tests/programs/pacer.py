"""A training loop without arithmetic: what a benchmark of it measures is detection and relaunch, not `import torch`.

One step every `--pace` seconds, each rank by itself; rank 0 saves `step_<n>.pt` every `--every` steps. The lines in the
files below `--progress` are those of ddp_counter.py. Each step beats where ftslurm can be imported.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path

STARTED = time.time()


def parse() -> argparse.Namespace:
    """The command line; the checkpoint folder comes from the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints; 0: never")
    parser.add_argument("--pace", type=float, default=0.05, help="seconds per step")
    parser.add_argument("--progress", type=Path, required=True, help="folder of the STEP files")
    parser.add_argument("--checkpoints", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT_DIR"))
    parser.add_argument("--resume", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT") or None)
    parser.add_argument("--save-s", type=float, default=0.0, help="seconds that a save takes")
    return parser.parse_args()


def resumed(place: Path | None) -> int:
    """The step that a checkpoint (a file, or a folder of files) holds; 0 without one."""
    if place is None or not place.exists():
        return 0
    path = place if place.is_file() else max(place.rglob("step_*.pt"))
    return int(path.stem.partition("_")[2])


def save(folder: Path, step: int, seconds: float) -> None:
    """Write a checkpoint that is there as a whole or not at all."""
    path = folder / f"step_{step:08d}.pt"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(f"{step}\n", encoding="ascii")
    time.sleep(seconds)
    part.replace(path)


def main() -> None:
    """Step until --steps are done."""
    from ftslurm.training import beat, phase

    args = parse()
    args.progress.mkdir(parents=True, exist_ok=True)
    if args.checkpoints:
        args.checkpoints.mkdir(parents=True, exist_ok=True)
    rank = int(os.environ["RANK"])
    name = f"rank-{rank:05d}-{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.log"
    with (args.progress / name).open("a", buffering=1, encoding="ascii") as lines:
        lines.write(f"START {STARTED:.6f} {os.environ['WORLD_SIZE']} {os.environ.get('FTSLURM_ATTEMPT', '-')}\n")
        step = resumed(args.resume)
        lines.write(f"RESUME {step}\n")
        while step < args.steps:
            time.sleep(args.pace)
            step += 1
            lines.write(f"STEP {step} {time.time():.6f}\n")
            beat(step)
            if rank == 0 and args.checkpoints and args.every and step % args.every == 0:
                with phase("save"):
                    save(args.checkpoints, step, args.save_s)
        lines.write("DONE -\n")


if __name__ == "__main__":
    main()
