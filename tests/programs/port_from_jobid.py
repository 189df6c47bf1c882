"""A program that makes its port out of the job id, as many scripts do: the same port in every attempt of a job.

As long as a process of the old attempt holds that port on the first host, the new attempt cannot bind it and fails.
Everything else is the neutral loop: its options follow.
"""

from __future__ import annotations

import os
import sys

import ddp_counter


def main() -> None:
    """Set MASTER_PORT from the job id, whatever it was, and train."""
    port = 10000 + int(os.environ["SLURM_JOB_ID"]) % 10000
    os.environ["MASTER_PORT"] = str(port)
    print(f"port {port}", file=sys.stderr, flush=True)
    ddp_counter.main()


if __name__ == "__main__":
    main()
