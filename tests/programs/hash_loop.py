"""A program that needs no library and starts at once; of several ranks the first one saves.

Each step hashes what there is, so that a step that is left out, or done twice, changes all that follow. Every --every steps it leaves a checkpoint of plain text; at SIGTERM it saves and ends, at SIGUSR1 and when the file
--ask appears it saves and goes on. What it writes to --progress has the form of `ddp_counter.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import time
from pathlib import Path

asked: set[int] = set()


def after(state: str, step: int) -> str:
    """The state after a step."""
    return hashlib.sha256(f"{state} {step}".encode()).hexdigest()[:16]


def save(step: int, state: str) -> None:
    """Leave a checkpoint that is there as a whole or not at all."""
    folder = Path(os.environ["FTSLURM_CHECKPOINT_DIR"])
    part = folder / ".part"
    part.write_text(f"{step} {state}\n")
    part.replace(folder / f"step_{step:08d}.pt")


def main() -> None:
    """Hash until all steps are done, or it is enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--until", type=Path, required=True, help="a file; once it exists no step follows")
    parser.add_argument("--pace", type=float, default=0.1)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--ask", type=Path)
    parser.add_argument("--progress", type=Path, required=True)
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: asked.add(number))
    resume = os.environ.get("FTSLURM_CHECKPOINT")
    words = Path(resume).read_text().split() if resume else ["0", ""]
    step, state = int(words[0]), "".join(words[1:])
    args.progress.mkdir(parents=True, exist_ok=True)
    rank = int(os.environ.get("RANK", "0"))
    with (args.progress / f"rank-{rank:05d}-{time.time_ns()}.log").open("w", buffering=1) as progress:
        progress.write(f"START 0 1 {os.environ['FTSLURM_ATTEMPT']}\nRESUME {step}\n")
        while step < args.steps and not args.until.exists():
            step, state = step + 1, after(state, step + 1)
            progress.write(f"STEP {step}\n")
            now = args.ask is not None and args.ask.exists()
            if rank == 0 and (now or asked or step % args.every == 0 or step == args.steps):
                save(step, state)
            if now:
                args.ask.unlink()
            if signal.SIGTERM in asked:
                return
            asked.clear()
            time.sleep(args.pace)
        progress.write(f"DONE {state}\n")


if __name__ == "__main__":
    main()
