"""Heat spreads over a square plate: mpi4py and NumPy, one strip of rows for each rank, halo exchange; no torch.

The temperature of a point becomes a mean of it and its four neighbours; the edges are held at 0, one spot at 100. The
lines that make it survive are marked with `# <-`. Every point is computed from the same neighbours in the same order
on any number of ranks, so a run that was killed and goes on with fewer ends with the same plate, bit for bit.

    mpirun -n 3 python heat.py
"""

import argparse
import hashlib

import numpy as np
from mpi4py import MPI

from ftslurm.training import Shard, attach

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--size", type=int, default=250, help="points along an edge")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--every", type=int, default=200, help="steps between two checkpoints, without ftslurm")
parser.add_argument("--log", type=int, default=100, help="steps between two lines of output")
parser.add_argument("--checkpoints", default="checkpoints", help="their folder, without ftslurm")


def rows_of(rank, ranks, size):
    """First row and number of rows: the first `size % ranks` ranks have one more."""
    share, rest = divmod(size, ranks)
    return rank * share + min(rank, rest), share + (rank < rest)


def exchange(comm, plate):
    """The first and last row of `plate` are the neighbours' rows next to ours; beyond the plate they stay 0."""
    above = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    below = comm.rank + 1 if comm.rank < comm.size - 1 else MPI.PROC_NULL
    comm.Sendrecv(plate[1], above, recvbuf=plate[-1], source=below)
    comm.Sendrecv(plate[-2], below, recvbuf=plate[0], source=above)


def spread(plate, first, size):
    """One step in time; `first` is the number of our first row."""
    inner = plate[1:-1, 1:-1]
    around = plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]
    plate[1:-1, 1:-1] = inner + 0.2 * (around - 4 * inner)
    if first == 0:
        plate[1] = 0
    if first + len(plate) - 2 == size:
        plate[-2] = 0
    spot = size // 2 - first + 1
    if 1 <= spot < len(plate) - 1:
        plate[spot, size // 3] = 100


def main():
    args, comm = parser.parse_args(), MPI.COMM_WORLD
    first, rows = rows_of(comm.rank, comm.size, args.size)
    plate = np.zeros((rows + 2, args.size))
    ours = Shard(plate[1:-1], offsets=(first, 0), global_shape=(args.size, args.size))  # <-
    run = attach(extra={"plate": ours, "heat": 0.0}, every=args.every, folder=args.checkpoints, comm=comm)  # <-
    step = run.restore() or 0  # <-
    if comm.rank == 0:
        print(f"start at step {step} on {comm.size} ranks", flush=True)
    while step < args.steps and not run.should_stop():  # <-
        exchange(comm, plate)
        spread(plate, first, args.size)
        step += 1
        if step % args.log == 0:
            run.extra["heat"] = comm.allreduce(float(plate[1:-1].sum()))  # <-
            if comm.rank == 0:
                print(f"step {step} heat {run.extra['heat']:.6f}", flush=True)
        run.step(step)  # <-
    run.close()  # <-
    strips = comm.gather(plate[1:-1].tobytes())
    if comm.rank == 0:
        digest = hashlib.sha256(b"".join(strips)).hexdigest()[:16]
        print(f"{'final' if step >= args.steps else 'stopped'} step {step} digest {digest}", flush=True)
    raise SystemExit(0 if step >= args.steps else 143)


if __name__ == "__main__":
    main()
