"""An mpi4py program as HPC codes are: NumPy state, one allreduce a step, checkpoints, and an MPI error ends it all.

The state after step n depends on n alone, not on the number of ranks, so a resumed run is checked by its last line:
`final step N value V ranks R`, printed by rank 0. Started without MPI's help (MpiDefault=none) it is many worlds of
size 1: `--ranks` makes that an error.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

CELLS = 1024


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--pace", type=float, default=0.05, help="seconds per step")
    parser.add_argument("--ranks", type=int, default=0, help="fail unless the world has this size; 0: any")
    parser.add_argument("--checkpoints", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT_DIR") or "checkpoints")
    parser.add_argument("--resume", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT") or None)
    parser.add_argument("--progress", type=Path, default=None, help="folder of the STEP files")
    return parser.parse_args()


def load(path: Path | None) -> tuple[int, np.ndarray]:
    """The step that is done and the state after it."""
    if path is None:
        return 0, np.zeros(CELLS)
    with np.load(max(path.glob("step_*.npz")) if path.is_dir() else path) as saved:
        return int(saved["step"]), saved["state"]


def save(folder: Path, step: int, state: np.ndarray) -> None:
    """Write one checkpoint that is there as a whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".step_{step:08d}.{os.getpid()}"
    with part.open("wb") as file:
        np.savez(file, step=step, state=state)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / f"step_{step:08d}.npz")


def advance(comm: MPI.Comm, state: np.ndarray, step: int) -> None:
    """Each rank adds its own cells; the sum over ranks makes the state whole again everywhere."""
    rank, size = comm.Get_rank(), comm.Get_size()
    mine = np.zeros(CELLS)
    mine[rank::size] = np.sin(np.arange(CELLS)[rank::size] + step)
    total = np.empty_like(mine)
    comm.Allreduce(mine, total, op=MPI.SUM)
    state += total


def main() -> None:
    """Run to --steps."""
    args = parse()
    comm = MPI.COMM_WORLD
    comm.Set_errhandler(MPI.ERRORS_ARE_FATAL)
    rank, size = comm.Get_rank(), comm.Get_size()
    if args.ranks and size != args.ranks:
        raise SystemExit(f"the world has {size} ranks, not {args.ranks}")
    print(f"rank {rank} of {size} on {socket.gethostname()}", flush=True)
    step, state = load(args.resume)
    progress = None
    if args.progress:
        args.progress.mkdir(parents=True, exist_ok=True)
        progress = (args.progress / f"rank-{rank:05d}-{socket.gethostname()}-{os.getpid()}.log").open("a", buffering=1)
        progress.write(f"START {time.time():.6f} {size} {os.environ.get('FTSLURM_ATTEMPT', '-')}\nRESUME {step}\n")
    while step < args.steps:
        advance(comm, state, step)
        step += 1
        if progress:
            progress.write(f"STEP {step} {time.time():.6f}\n")
        if rank == 0 and (step % args.every == 0 or step == args.steps):
            save(args.checkpoints, step, state)
        time.sleep(args.pace)
    comm.Barrier()
    if rank == 0:
        print(f"final step {step} value {state.sum():.9f} ranks {size}", flush=True)


if __name__ == "__main__":
    main()
