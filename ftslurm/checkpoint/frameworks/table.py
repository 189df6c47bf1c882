"""All layouts of frameworks, by the word that `checkpoint.layout` has for them."""

from __future__ import annotations

from ftslurm.checkpoint.frameworks.dcp import DCP
from ftslurm.checkpoint.frameworks.deepspeed import DEEPSPEED
from ftslurm.checkpoint.frameworks.framework import Framework
from ftslurm.checkpoint.frameworks.hf import HF
from ftslurm.checkpoint.frameworks.lightning import LIGHTNING
from ftslurm.checkpoint.frameworks.megatron import MEGATRON

FRAMEWORKS: dict[str, Framework] = {row.name: row for row in (HF, LIGHTNING, DCP, MEGATRON, DEEPSPEED)}
