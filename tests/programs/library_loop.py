"""A training of the library layout: an array in strips, one for each rank; the result is the same for any world.

    library_loop.py --steps 200 --pace 0.1 --progress FOLDER

Each rank writes FOLDER/rank-*.log: where it began and in which attempt, every step, where its bytes came from, and the
digest of the whole array at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path

import numpy as np
import torch.distributed as dist

from ftslurm.training import Shard, attach

ROWS, COLUMNS = 96, 16384


def main() -> None:
    """Count, and survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pace", type=float, default=0.1)
    parser.add_argument("--progress", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=COLUMNS, help="how wide the array is: 768 bytes a column")
    args = parser.parse_args()
    dist.init_process_group("gloo")
    rank, size, attempt = dist.get_rank(), dist.get_world_size(), os.environ["FTSLURM_ATTEMPT"]
    args.progress.mkdir(parents=True, exist_ok=True)
    first, last = rank * ROWS // size, (rank + 1) * ROWS // size
    strip = np.zeros((last - first, args.columns))
    shard = Shard(strip, offsets=(first, 0), global_shape=(ROWS, args.columns))
    run = attach(extra={"array": shard})
    step = run.restore() or 0
    with (args.progress / f"rank-{rank:05d}-{attempt}.log").open("w", buffering=1) as log:
        print("START", step, attempt, file=log)
        if run.restored is not None:
            print("READ", *(f"{name}={count}" for name, count in sorted(run.restored.bytes_read.items())), file=log)
        while step < args.steps and not run.should_stop():
            dist.barrier()
            time.sleep(args.pace)
            step += 1
            strip += np.arange(first, last)[:, None] * step
            run.step(step, loss=1.0 / step)
            print("STEP", step, file=log)
        run.close()
        strips: list[bytes] = [b""] * size
        dist.all_gather_object(strips, strip.tobytes())
        print("DONE", hashlib.sha256(b"".join(strips)).hexdigest()[:16], file=log)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
