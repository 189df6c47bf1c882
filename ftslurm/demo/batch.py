"""The demonstration's job: the run, as `ftslurm submit` would start it, and then the nodes are swept.

python -I -m ftslurm.demo.batch RUN_DIR SCRATCH
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ftslurm import runs
from ftslurm.errors import FtslurmError
from ftslurm.paths import RunPaths
from ftslurm.runtime.launcher import PYTHON
from ftslurm.runtime.parent import Parent
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.env import job_from_env

SWEEP_S = 40.0
KILLED = 137
"""After it the script begins the run again: nothing may be swept."""


def main() -> int:
    """Run it to its end; the run's exit code."""
    folder, scratch = Path(sys.argv[1]), sys.argv[2]
    job = job_from_env(os.environ)
    runs.link_job(RunPaths(folder), job.job_id)
    code = Parent([str(folder)]).run()
    if code != KILLED:
        count = str(job.num_nodes)
        step = ["srun", "--overlap", "--jobid", job.job_id, f"-N{count}", f"-n{count}", "--ntasks-per-node=1"]
        step += ["--mpi=none", "--input=none", "--kill-on-bad-exit=0", "-D", "/"]
        try:
            answer = SlurmClient().run(
                [*step, *PYTHON, "-m", "ftslurm.demo.sweep", folder.name, scratch], timeout_s=SWEEP_S
            )
            print(answer.stdout or answer.words, end="", flush=True)
        except FtslurmError as error:
            print(f"[ftslurm] the nodes are not swept: {error}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
