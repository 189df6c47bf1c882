"""Keeps a distributed training run alive on a Slurm cluster.

Start reading at `ftslurm.core.events` (what can happen), then `ftslurm.core.run` (what follows).
"""

__version__ = "0.1.0.dev0"
