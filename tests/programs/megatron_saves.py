"""Saves twice with megatron-core's own writer (`torch_dist`), on one rank, as pretrain_gpt.py does at the end of a save.

    megatron_saves.py FOLDER

It waits for the GPU even where all tensors are on the CPU; where there is none, that wait is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from megatron.core import dist_checkpointing, parallel_state


def save(root: Path, step: int) -> None:
    """One checkpoint; the tracker file comes last."""
    folder = root / f"iter_{step:07d}"
    folder.mkdir(parents=True)
    weight = dist_checkpointing.ShardedTensor.from_rank_offsets("w", torch.full((4, 6), float(step)))
    told = argparse.Namespace(tensor_model_parallel_size=1)
    dist_checkpointing.save({"model": {"w": weight}, "iteration": step, "args": told}, str(folder))
    (root / "latest_checkpointed_iteration.txt").write_text(str(step))


if __name__ == "__main__":
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *_: None
        torch.cuda.current_device = lambda: "cpu"
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    for iteration in (10, 20):
        save(Path(sys.argv[1]), iteration)
