"""DeepSpeed, with the optimizer's state divided among the ranks. Lines that make it go on are marked `# <-`."""

import argparse

import deepspeed
import torch

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--checkpoints", default="checkpoints")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--every", type=int, default=10)
parser.add_argument("--tag", help="which checkpoint to go on from")
args = parser.parse_args()

settings = {
    "train_micro_batch_size_per_gpu": 8,
    "zero_optimization": {"stage": 1},
    "bf16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
}
deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=settings)
if args.tag:  # <- without a tag DeepSpeed follows `latest`, whatever it names
    engine.load_checkpoint(args.checkpoints, tag=args.tag)
while engine.global_steps < args.steps:
    x = torch.randn(8, 8, dtype=torch.bfloat16, device=engine.device)
    engine.backward((engine(x).squeeze() - x.sum(dim=1)).square().mean())
    engine.step()
    if engine.global_steps % args.every == 0:
        engine.save_checkpoint(args.checkpoints)  # <- global_stepN: the default tag tells the step
if engine.global_rank == 0:
    print(f"done at step {engine.global_steps}", flush=True)
