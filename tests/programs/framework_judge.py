"""Says which checkpoints in a folder a framework can load: reads all of them with torch, and asks nobody else.

    framework_judge.py dcp|hf|lightning

Each line on stdin is a folder, and is answered by one on stdout: {"whole": [40, 50], "torn": ["step-60"]}. A checkpoint
is whole if every file that a world of --world ranks needs is there, loads to the last byte, and is of the step in the
checkpoint's name. No code of ftslurm is used.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import warnings
from pathlib import Path

import torch


def dcp(path: Path, world: int) -> int:
    """Load every tensor that `.metadata` names; `world` is told by it."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state: dict = {}
    _load_state_dict(state, storage_reader=FileSystemReader(path), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    moments = state["training"]["optimizer"]["state"]
    if set(moments) != set(state["training"]["model"]) or not all("exp_avg" in each for each in moments.values()):
        raise ValueError("a moment is missing")
    return state["training"]["step"]


def hf(path: Path, world: int) -> int:
    """Load the model, the optimizer, the scheduler and the random states of all ranks."""
    from safetensors.torch import load_file

    weights = load_file(path / "model.safetensors")
    moments = torch.load(path / "optimizer.pt", weights_only=True)
    if not weights or not moments["state"]:
        raise ValueError("nothing in it")
    torch.load(path / "scheduler.pt", weights_only=True)
    for rank in range(world):
        torch.load(path / f"rng_state_{rank}.pth", weights_only=False)
    return json.loads((path / "trainer_state.json").read_text())["global_step"]


def lightning(path: Path, world: int) -> int:
    """Load the file."""
    state = torch.load(path, weights_only=False)
    if not state["optimizer_states"][0]["state"]:
        raise ValueError("nothing in it")
    return state["global_step"]


JUDGES = {"dcp": dcp, "hf": hf, "lightning": lightning}
NAMES = {"dcp": r"step-(\d+)", "hf": r"checkpoint-(\d+)", "lightning": r"epoch=0-step=(\d+)(?:-v\d+)?\.ckpt"}


def verdict(framework: str, folder: Path, world: int) -> dict[str, list]:
    """What is whole and what is torn."""
    whole, torn = [], []
    for path in sorted(folder.iterdir()):
        named = re.fullmatch(NAMES[framework], path.name)
        if named is None:
            continue
        try:
            right = JUDGES[framework](path, world) == int(named[1])
        except BaseException:  # noqa: BLE001 - whatever keeps it from being loaded; torch has errors of its own kind
            right = False
        if right:
            whole.append(int(named[1]))
        else:
            torn.append(path.name)
    return {"whole": sorted(whole), "torn": torn}


def main() -> None:
    """Answer the lines on stdin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=JUDGES)
    parser.add_argument("--world", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # frameworks print when they are imported
    for line in sys.stdin:
        print(json.dumps(verdict(args.framework, Path(line.rstrip("\n")), args.world)), file=answers, flush=True)


if __name__ == "__main__":
    main()
