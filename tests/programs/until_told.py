"""A program that works until it is told that it is enough: for tests whose length is the machine's business.

Every rank counts steps of --pace seconds until the file --until exists, and exits 0. Nobody waits for anybody. Rank 0
leaves a checkpoint of plain text every --every steps; each rank goes on from the one that it is handed.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path


def main() -> None:
    """Count until told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", type=Path, required=True)
    parser.add_argument("--pace", type=float, default=0.05)
    parser.add_argument("--every", type=int, default=20)
    args = parser.parse_args()
    rank, resume = int(os.environ["RANK"]), os.environ.get("FTSLURM_CHECKPOINT")
    step = int(Path(resume).read_text()) if resume else 0
    print(f"rank {rank} starts at step {step}", flush=True)
    folder = Path(os.environ["FTSLURM_CHECKPOINT_DIR"])
    while not args.until.exists():
        time.sleep(args.pace)
        step += 1
        if rank == 0 and step % args.every == 0:
            part = folder / ".part"
            part.write_text(f"{step}\n")
            part.replace(folder / f"step_{step:08d}.pt")
    print(f"rank {rank} ends at step {step}", flush=True)


if __name__ == "__main__":
    main()
