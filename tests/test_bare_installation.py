from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ftslurm

PACKAGE = Path(ftslurm.__file__).parent
BARE = """
import importlib, sys
for name in ("numpy", "torch", "mpi4py", "pynvml", "paramiko", "py_spy", "matplotlib", "zstandard", "safetensors", "mfusepy"):
    sys.modules[name] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def modules(folder: str) -> list[str]:
    """The modules of one part of the package."""
    return [
        f"ftslurm.{folder}.{path.stem}" for path in sorted((PACKAGE / folder).glob("*.py")) if path.stem != "__init__"
    ]


@pytest.mark.parametrize("more", ["cli", "demo", "observer", "report", "runtime"])
def test_what_runs_without_any_extra(more):
    """`pip install ftslurm` alone is enough for every command, and for agents that copy checkpoints of the files layout."""
    names = [*modules(more), "ftslurm.checkpoint.copying", "ftslurm.checkpoint.drain", "ftslurm.checkpoint.restore"]
    left_out = {"ftslurm.runtime.ring"}  # the ring is mpi4py
    argv = [sys.executable, "-I", "-c", BARE, *(name for name in names if name not in left_out)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
