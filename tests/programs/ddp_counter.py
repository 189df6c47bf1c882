"""The neutral DDP loop: the same file runs under ftslurm, torchrun and plain srun, so that their recoveries compare.

A tiny model, data parallel over gloo, one step every `--pace` seconds, rank 0 saves `step_<n>.pt` every `--every` steps.
Each rank appends `STEP <n> <unix time>` to a file of its own below `--progress`, after the step is done. The first line
is `START <unix time> <world size> <attempt>`, the second `RESUME <step>`, the last of a complete run `DONE <digest>`.

Gradients are summed and applied by hand: torch's DistributedDataParallel and its optimizers import the compiler, which
costs every process 1.5 CPU seconds at start and would be most of what a benchmark of relaunching measures.

The world comes from RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or from Slurm's variables where nobody set them.
Inside a run every rank obeys the orders of `ftslurm inject`.
The checkpoint folder comes from --checkpoints or FTSLURM_CHECKPOINT_DIR. What to resume from is --resume PATH (a file
or a folder), else FTSLURM_CHECKPOINT, else the newest file of the checkpoint folder that loads.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path

STARTED = time.time()  # before torch is imported: what a relaunch costs is in the START line

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from ftslurm.faults.willing import Willing  # noqa: E402

WIDTH = 64
GLOBAL_BATCH = 24


def parse() -> argparse.Namespace:
    """The command line; folders may come from the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints; 0: never")
    parser.add_argument("--pace", type=float, default=0.05, help="least seconds per step")
    parser.add_argument(
        "--progress", type=Path, default=os.environ.get("PROGRESS_DIR"), help="folder of the STEP files"
    )
    parser.add_argument("--checkpoints", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT_DIR"))
    parser.add_argument("--resume", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT") or None)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which a collective operation fails")
    parser.add_argument("--size-mb", type=float, default=0, help="ballast in every checkpoint")
    return parser.parse_args()


def world() -> tuple[int, int]:
    """(rank, world size), filling torch's variables from Slurm's where the launcher has set none."""
    for ours, slurms, otherwise in (
        ("RANK", "SLURM_PROCID", "0"),
        ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "1"),
        ("MASTER_ADDR", "SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
        ("MASTER_PORT", "", "29400"),
    ):
        os.environ.setdefault(ours, os.environ.get(slurms, otherwise))
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def candidates(args: argparse.Namespace) -> list[Path]:
    """The files to resume from, best first. A path that was handed over is the only candidate."""
    place = args.resume or args.checkpoints
    if place is None or not place.exists():
        return []
    return [place] if place.is_file() else sorted(place.rglob("step_*.pt"), reverse=True)


def load(args: argparse.Namespace, model: torch.nn.Module, velocity: torch.Tensor) -> int:
    """The step that is done already; 0 for a fresh start."""
    for path in candidates(args):
        try:
            state = torch.load(path, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            print(f"cannot read {path}: {error}", file=sys.stderr, flush=True)
            continue
        model.load_state_dict(state["model"])
        velocity.copy_(state["velocity"])
        return int(state["step"])
    return 0


def save(args: argparse.Namespace, step: int, model: torch.nn.Module, velocity: torch.Tensor) -> None:
    """Write one checkpoint that is there as a whole or not at all."""
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    path = args.checkpoints / f"step_{step:08d}.pt"
    ballast = torch.full((int(args.size_mb * 2**18),), float(step))
    state = {"model": model.state_dict(), "velocity": velocity, "step": step, "ballast": ballast}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def train_step(model: torch.nn.Module, velocity: torch.Tensor, step: int) -> None:
    """One step of SGD with momentum on the global batch of `step`; every rank ends with the same weights."""
    rank, size = dist.get_rank(), dist.get_world_size()
    share = torch.randn(GLOBAL_BATCH, WIDTH, generator=torch.Generator().manual_seed(step))[rank::size]
    ((model(share) - share).square().sum() / (GLOBAL_BATCH * WIDTH)).backward()
    weights = list(model.parameters())
    gradient = torch.cat([weight.grad.flatten() for weight in weights])
    dist.all_reduce(gradient)
    velocity.mul_(0.9).add_(gradient)
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(weights) - 0.1 * velocity, weights)
    model.zero_grad()


def flip(model: torch.nn.Module) -> None:
    """Change the lowest bit of the first weight."""
    with torch.no_grad():
        next(model.parameters()).view(-1).view(torch.int32)[0] ^= 1


def digest(model: torch.nn.Module) -> str:
    """The weights in one word, to compare two runs by."""
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(name.encode() + value.numpy().tobytes())
    return total.hexdigest()[:16]


class Progress:
    """The STEP file of one process: one write() a line, so that a reader never waits for a buffer."""

    def __init__(self, folder: Path | None, rank: int) -> None:
        name = f"rank-{rank:05d}-{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.log"
        path = os.devnull if folder is None else folder / name
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def say(self, line: str) -> None:
        """Append one line."""
        os.write(self.fd, f"{line}\n".encode())


def main() -> None:
    """Train until --steps are done."""
    args = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank, size = world()
    if args.progress:
        args.progress.mkdir(parents=True, exist_ok=True)
    progress = Progress(args.progress, rank)
    progress.say(f"START {STARTED:.6f} {size} {os.environ.get('FTSLURM_ATTEMPT', '-')}")

    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH))
    velocity = torch.zeros(sum(weight.numel() for weight in model.parameters()))
    step = load(args, model, velocity)
    progress.say(f"RESUME {step}")
    dist.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(seconds=args.timeout))
    willing = Willing.from_environment()
    while step < args.steps:
        began = time.monotonic()
        if willing.obey(step).flip:
            flip(model)
        train_step(model, velocity, step)
        step += 1
        progress.say(f"STEP {step} {time.time():.6f}")
        if rank == 0 and args.checkpoints and args.every and (step % args.every == 0 or step == args.steps):
            save(args, step, model, velocity)
        time.sleep(max(0.0, args.pace - (time.monotonic() - began)))
    progress.say(f"DONE {digest(model)}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
