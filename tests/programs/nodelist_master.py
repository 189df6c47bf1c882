"""A program that finds its master as half of all scripts do: the first host of SLURM_JOB_NODELIST (or SLURM_NODELIST).

After a lost node Slurm leaves both names wrong in later steps, so this one hangs on a dead host unless somebody
corrects them. Everything else is the neutral loop: its options follow.
"""

from __future__ import annotations

import os
import subprocess
import sys

import ddp_counter


def main() -> None:
    """Set MASTER_ADDR from Slurm's node list, whatever it was, and train."""
    nodelist = os.environ.get("SLURM_JOB_NODELIST") or os.environ["SLURM_NODELIST"]
    argv = ["scontrol", "show", "hostnames", nodelist]
    hosts = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout.split()
    os.environ["MASTER_ADDR"] = hosts[0]
    print(f"master {hosts[0]} out of {len(hosts)} hosts", file=sys.stderr, flush=True)
    ddp_counter.main()


if __name__ == "__main__":
    main()
