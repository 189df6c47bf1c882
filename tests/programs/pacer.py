"""A training loop without arithmetic: what a benchmark of it measures is detection and relaunch, not `import torch`.

One step every `--pace` seconds, which all ranks end together, as they would in an all_reduce; rank 0 saves
`step_<n>.pt` every `--every` steps. The lines in the files below `--progress` are those of ddp_counter.py.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path

STARTED = time.time()
TRIES = 1000


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


class Together:
    """All ranks wait for each other, by one byte to rank 0 and one back; who is alone raises ConnectionError."""

    def __init__(self, rank: int, size: int) -> None:
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if rank == 0:
            with socket.create_server(("", where[1]), backlog=size) as server:
                self.others = [server.accept()[0] for _ in range(size - 1)]
        else:
            self.others = [self._reach(where)]
        self.leads = rank == 0

    @staticmethod
    def _reach(where: tuple[str, int]) -> socket.socket:
        for _ in range(TRIES):
            try:
                return socket.create_connection(where)
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise ConnectionError(f"nobody listens at {where}")

    def step(self) -> None:
        """Return when every rank has called this."""
        if self.leads:
            self._hear()
            self._tell()
        else:
            self._tell()
            self._hear()

    def _hear(self) -> None:
        for other in self.others:
            if not other.recv(1):
                raise ConnectionResetError("Connection reset by peer")

    def _tell(self) -> None:
        for other in self.others:
            other.sendall(b".")


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
        together = Together(rank, int(os.environ["WORLD_SIZE"]))
        while step < args.steps:
            time.sleep(args.pace)
            together.step()
            step += 1
            lines.write(f"STEP {step} {time.time():.6f}\n")
            beat(step)
            if rank == 0 and args.checkpoints and args.every and step % args.every == 0:
                with phase("save"):
                    save(args.checkpoints, step, args.save_s)
        lines.write("DONE -\n")


if __name__ == "__main__":
    main()
