"""A small GPT learns to write Python, and leaves its checkpoints to ftslurm: DDP, or FSDP2 with --fsdp.

The model and the text are those of ../charlm. The lines that make it survive are marked with `# <-`. The global batch
is BATCH sequences on any number of ranks; the sampler counts them, so that a run which was killed goes on with the next
one.
"""

import argparse
import hashlib
import os
import sysconfig
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ftslurm.sampling import GlobalSampler
from ftslurm.training import attach

BATCH, MICRO, CONTEXT = 24, 2, 32  # sequences a step, sequences at a time, characters a sequence
LAYERS, HEADS, WIDTH, VOCABULARY = 6, 4, 128, 256  # 1.2 million parameters; a character is a byte

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--every", type=int, default=20, help="steps between two checkpoints, without ftslurm")
parser.add_argument("--log", type=int, default=10, help="steps between two lines of output")
parser.add_argument("--checkpoints", type=Path, default="checkpoints", help="their folder, without ftslurm")
parser.add_argument("--fsdp", action="store_true", help="shard the model over the ranks (FSDP2)")


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
    """The sources of the standard library's modules in the order of their names, as sequences of bytes."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = torch.frombuffer(bytearray().join(path.read_bytes() for path in files), dtype=torch.uint8)
    return text[: len(text) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)


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


def parallel(model, fsdp):
    if not fsdp:
        return DistributedDataParallel(model)
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def gradients(model, batches, micro_batches):
    """Gradients of this rank's share of the global batch; returns its mean loss."""
    total = 0.0
    for number in range(micro_batches):
        batch, last = next(batches).long(), number == micro_batches - 1
        if isinstance(model, DistributedDataParallel):
            apart = nullcontext() if last else model.no_sync()
        else:
            apart = nullcontext(model.set_requires_gradient_sync(last))
        with apart:
            loss = model(batch[:, :-1], batch[:, 1:]) / micro_batches
            loss.backward()
        total += loss.item()
    return total


def forever(loader):
    while True:
        yield from loader


def main():
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(1)
    rank, size = join_world()
    say = (lambda text: print(text, flush=True)) if rank == 0 else lambda _: None
    text = corpus()
    model = parallel(GPT(), args.fsdp)
    gradients(model, iter([text[:MICRO]]), 1)  # DDP reorders its sums after a first pass: let that be before step 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    sampler = GlobalSampler(len(text), global_batch=BATCH)  # <-
    run = attach(model=model, optimizer=optimizer, sampler=sampler, every=args.every, folder=args.checkpoints)  # <-
    step, loss = run.restore() or 0, float("nan")  # <-
    say(f"start at step {step} on {size} ranks")
    batches = forever(torch.utils.data.DataLoader(text, batch_size=MICRO, sampler=sampler))
    micro_batches = run.grad_accumulation(BATCH, MICRO)  # <-
    while step < args.steps and not run.should_stop():  # <-
        optimizer.zero_grad()
        mean = torch.tensor(gradients(model, batches, micro_batches), dtype=torch.float64)
        optimizer.step()
        dist.all_reduce(mean)
        loss, step = mean.item() / size, step + 1
        run.step(step, loss=loss)  # <-
        if step % args.log == 0:
            say(f"step {step} loss {loss:.9f}")
    run.close()  # <-
    full = (weight.full_tensor() if args.fsdp else weight for weight in model.parameters())
    digest = hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in full)).hexdigest()[:16]
    say(f"{'final' if step >= args.steps else 'stopped'} step {step} loss {loss:.9f} digest {digest}")
    dist.barrier()
    dist.destroy_process_group()
    raise SystemExit(0 if step >= args.steps else 143)


if __name__ == "__main__":
    main()
