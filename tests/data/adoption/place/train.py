"""Stands for a user's training script: the neutral loop, with its files beside it, whatever launches it."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from pathlib import Path

SHOWN = (
    "CONDA_DEFAULT_ENV",
    "LOADEDMODULES",
    "RUN_TAG",
    "NCCL_DEBUG",
    "LOCAL_ONLY",
    "MASTER_ADDR",
    "SLURM_JOB_NODELIST",
)

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="")
parser.add_argument("--fold", default="0")
asked = parser.parse_args()
folder = Path(f"fold-{asked.fold}")
folder.mkdir(exist_ok=True)
seen = {name: os.environ[name] for name in SHOWN if name in os.environ} | {"data": asked.data}
with (folder / "seen").open("a") as file:
    file.write(json.dumps(seen) + "\n")
steps = Path("steps").read_text().strip() if Path("steps").exists() else "1000000"
sys.argv = ["loop.py", "--steps", steps, "--progress", str(folder / "progress"), "--checkpoints", str(folder / "saved")]
runpy.run_path("loop.py", run_name="__main__")
