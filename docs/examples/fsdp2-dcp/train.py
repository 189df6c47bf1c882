"""FSDP2 and torch.distributed.checkpoint, as torchtitan uses them. Lines that make it go on are marked `# <-`."""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--every", type=int, default=10)
parser.add_argument("--resume", type=Path)
args = parser.parse_args()


class Training:
    """All that training consists of, as one thing that saves and loads itself."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.step = model, optimizer, 0

    def state_dict(self):
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "step": self.step}

    def load_state_dict(self, state):
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.step = state["step"]


device = "cuda" if torch.cuda.is_available() else "cpu"
if device == "cuda":
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl" if device == "cuda" else "gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)).to(device)
fully_shard(model, mesh=init_device_mesh(device, (dist.get_world_size(),)))
training = Training(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
if args.resume:  # <- what was saved on any number of ranks
    dcp.load({"training": training}, checkpoint_id=args.resume)
while training.step < args.steps:
    torch.manual_seed(training.step * dist.get_world_size() + dist.get_rank())
    x = torch.randn(32, 8, device=device)
    (model(x).squeeze() - x.sum(dim=1)).square().mean().backward()
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.step += 1
    if training.step % args.every == 0:  # <- a folder of its own for every step
        dcp.save({"training": training}, checkpoint_id=args.checkpoints / f"step-{training.step}")
if dist.get_rank() == 0:
    print(f"done at step {training.step}", flush=True)
dist.destroy_process_group()
