"""A program that saves as the Hugging Face Trainer does: into a folder on shared storage, in place, file after file.

All ranks count steps of --pace seconds together until the file --until exists. Each --every steps rank 0 writes the
model, the optimizer and, last, the state into `checkpoint-<step>/` of --output, and every rank its own random state;
nothing is written under another name first, nothing is renamed. With --half-at N the writer of --half-in stops for good
in the middle of that file of the first checkpoint at or after step N, once it has touched --marker; not if the marker
exists. With --keep N older checkpoints are removed by rank 0. What it starts from is FTSLURM_CHECKPOINT; every tensor of
it is compared with what was saved there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import time
from pathlib import Path

import torch
import torch.distributed as dist


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT_DIR"))
    parser.add_argument("--pace", type=float, default=0.05)
    parser.add_argument("--every", type=int, default=40)
    parser.add_argument("--kb", type=int, default=256)
    parser.add_argument("--keep", type=int, default=1000)
    parser.add_argument("--half-at", type=int, default=-1)
    parser.add_argument("--half-in", default="optimizer.pt")
    parser.add_argument("--marker", type=Path, default=Path("half"))
    return parser.parse_args()


def contents(args: argparse.Namespace, step: int, what: int) -> bytes:
    """What `torch.save` makes of a tensor that tells the step and the file."""
    buffer = io.BytesIO()
    torch.save({"step": step, "what": what, "values": torch.full((args.kb * 256,), float(step))}, buffer)
    return buffer.getvalue()


def write(args: argparse.Namespace, path: Path, step: int, what: int) -> None:
    """One file, in two pieces; perhaps never the second."""
    data = contents(args, step, what)
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        if path.name == args.half_in and 0 <= args.half_at <= step and not args.marker.exists():
            args.marker.touch()
            while True:
                time.sleep(1)
        file.write(data[len(data) // 2 :])


def save(args: argparse.Namespace, step: int, rank: int, world: int) -> None:
    """This rank's part of a checkpoint."""
    folder = args.output / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        write(args, folder / "pytorch_model.bin", step, 0)
        write(args, folder / "optimizer.pt", step, 1)
        write(args, folder / "scheduler.pt", step, 2)
    write(args, folder / (f"rng_state_{rank}.pth" if world > 1 else "rng_state.pth"), step, 10 + rank)
    if rank == 0:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 1000000}))
        mine = sorted(args.output.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
        for old in mine[: -args.keep]:
            shutil.rmtree(old)


def start(path: str) -> int:
    """The step to go on from; every file must be whole, and of one step."""
    if not path:
        return 0
    step = int(json.loads((Path(path) / "trainer_state.json").read_text())["global_step"])
    for file in sorted(Path(path).iterdir()):
        if file.name != "trainer_state.json":
            state = torch.load(file, weights_only=True)
            if state["step"] != step or not torch.all(state["values"] == step):
                raise SystemExit(f"{file}: not of step {step}")
    return step


def all_agree(wish: bool) -> bool:
    """Keep the ranks in step, and end all of them after the same one."""
    told = torch.tensor(int(wish))
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


def main() -> None:
    """Count and save until told."""
    args = parse()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    path = os.environ.get("FTSLURM_CHECKPOINT", "")
    step = start(path)
    print(f"rank {rank} of {world} starts at step {step} from {path or 'nothing'}", flush=True)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    while not all_agree(args.until.exists()):
        time.sleep(args.pace)
        step += 1
        if step % args.every == 0:
            save(args, step, rank, world)
    print(f"rank {rank} ends at step {step}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
