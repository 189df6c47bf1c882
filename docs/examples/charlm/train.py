"""A small GPT learns to write Python: DDP on CPUs, on the text that every machine has, its own standard library.

Deterministic: the batch of a step depends on its number alone, so a checkpoint needs no random state, and a run that
was killed and resumed ends with the same weights. The global batch is BATCH sequences on any number of ranks: each
takes its share of them, so fewer ranks mean more work for each and the same training.
"""

import argparse
import hashlib
import os
import signal
import sysconfig
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ftslurm.training import beat  # outside of ftslurm it does nothing

BATCH, MICRO, CONTEXT = 24, 2, 32  # sequences a step, sequences at a time, characters a sequence
LAYERS, HEADS, WIDTH, VOCABULARY = 6, 4, 128, 256  # 1.2 million parameters; a character is a byte

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--every", type=int, default=20, help="steps between two checkpoints")
parser.add_argument("--log", type=int, default=10, help="steps between two lines of output")
parser.add_argument("--checkpoints", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT_DIR") or "checkpoints")
parser.add_argument("--resume", type=Path, default=os.environ.get("FTSLURM_CHECKPOINT") or None)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, WIDTH))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x, y):
        h = self.blocks(self.token(x) + self.place.weight)
        return nn.functional.cross_entropy(self.head(self.norm(h)).flatten(0, 1), y.flatten())


def corpus():
    """The sources of the standard library's modules in the order of their names, as one tensor of bytes."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return torch.frombuffer(bytearray().join(path.read_bytes() for path in files), dtype=torch.uint8)


def save(folder, **state):
    """The file has its name only once all of it is on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".step_{state['step']:08d}.{os.getpid()}"
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / f"step_{state['step']:08d}.pt")


def load(path, model, optimizer):
    state = torch.load(max(path.glob("step_*.pt")) if path.is_dir() else path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["loss"]


def join_world():
    """Torch's variables (ftslurm and torchrun set them), else MPI's or Slurm's, else a world of one."""
    for names in (
        "RANK OMPI_COMM_WORLD_RANK PMI_RANK SLURM_PROCID 0",
        "WORLD_SIZE OMPI_COMM_WORLD_SIZE PMI_SIZE SLURM_STEP_NUM_TASKS 1",
        "MASTER_ADDR SLURM_LAUNCH_NODE_IPADDR 127.0.0.1",
        "MASTER_PORT 29500",
    ):
        name, *others, last = names.split()
        os.environ.setdefault(name, next((os.environ[other] for other in others if other in os.environ), last))
    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def train_step(model, text, step, rank, size):
    """Gradients of the mean loss of the global batch in every rank; returns this rank's part of that loss."""
    starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=torch.Generator().manual_seed(step))
    batch = text[starts + torch.arange(CONTEXT + 1)].long()
    mine, total = range(rank * MICRO, BATCH, size * MICRO), 0.0
    for first in mine:
        part = batch[first : first + MICRO]
        with model.no_sync() if first != mine[-1] else nullcontext():
            loss = model(part[:, :-1], part[:, 1:]) * MICRO / BATCH
            (loss * size).backward()  # DDP divides the sum over ranks by their number
        total += loss.item()
    return total


def main():
    args, asked_to_stop = parser.parse_args(), []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.append(1))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(1)
    rank, size = join_world()
    say = (lambda text: print(text, flush=True)) if rank == 0 else lambda _: None
    model, text = GPT(), corpus()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    step, loss = load(args.resume, model, optimizer) if args.resume else (0, float("nan"))
    say(f"start at step {step} on {size} ranks with {sum(w.numel() for w in model.parameters()):,} parameters")
    ddp, stop = DistributedDataParallel(model), False
    train_step(ddp, text, 0, rank, size)  # DDP reorders its sums after a first pass: let that be before step 1
    optimizer.zero_grad()
    while step < args.steps and not stop:
        loss = train_step(ddp, text, step, rank, size)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        news = torch.tensor([loss, len(asked_to_stop)], dtype=torch.float64)
        dist.all_reduce(news)  # the loss of the whole batch; and all ranks stop at the same step, or none
        loss, stop = news[0].item(), news[1].item() > 0
        beat(step, loss=loss)
        if step % args.log == 0:
            say(f"step {step} loss {loss:.9f}")
        if rank == 0 and (step % args.every == 0 or step == args.steps or stop):
            save(args.checkpoints, step=step, loss=loss, model=model.state_dict(), optimizer=optimizer.state_dict())
    done = step >= args.steps
    weights = hashlib.sha256(b"".join(w.numpy().tobytes() for _, w in sorted(model.state_dict().items())))
    say(f"{'final' if done else 'stopped'} step {step} loss {loss:.9f} digest {weights.hexdigest()[:16]}")
    dist.barrier()  # nobody leaves before rank 0 has saved
    dist.destroy_process_group()
    raise SystemExit(0 if done else 128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
