"""A tiny model with the Trainer of Lightning, on one rank or many. Lines that make it go on are marked `# <-`."""

import argparse
import os

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--checkpoints", default="checkpoints")
parser.add_argument("--max_steps", type=int, default=60)
parser.add_argument("--save_steps", type=int, default=10)
parser.add_argument("--ckpt_path")
args = parser.parse_args()

WORLD, LOCAL_WORLD = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))


class Tiny(LightningModule):
    """Learns to add."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def training_step(self, batch, _):
        return (self.layers(batch[0]).squeeze() - batch[0].sum(dim=1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


seed_everything(0)
rows = torch.utils.data.TensorDataset(torch.randn(4096, 8))
trainer = Trainer(
    max_steps=args.max_steps,
    num_nodes=WORLD // LOCAL_WORLD,  # <- not a number in the script: the run may go on with fewer nodes
    devices=LOCAL_WORLD,
    callbacks=[
        ModelCheckpoint(dirpath=args.checkpoints, every_n_train_steps=args.save_steps, save_top_k=-1)  # <- keeps all
    ],
    logger=False,
    enable_progress_bar=False,
)
loader = torch.utils.data.DataLoader(rows, batch_size=8)
trainer.fit(Tiny(), loader, ckpt_path=args.ckpt_path)  # <- a path, never "last"
print(f"done at step {trainer.global_step}", flush=True)
