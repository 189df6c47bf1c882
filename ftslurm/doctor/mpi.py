"""One rank of the probe's MPI world: says how large the world is that a kind of `srun --mpi` has made.

Without mpi4py it can only say whether the launcher left its marks in the environment. MPI is spoken as the ring of
heartbeats speaks it. There is no MPI_Finalize, which may hang; a rank leaves when all have written, because the end of
one may end the others.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from ftslurm.doctor.node import mark, wait_for, write
from ftslurm.runtime.ring import Fabric, choose_components
from ftslurm.slurm import env

MARKS = ("PMIX_RANK", "PMI_RANK", "PMI2_RANK", "PALS_RANKID")
INIT_S = 15
OTHERS_S = 5.0


def main() -> int:
    """Write `mpi.<kind>.<task>.json`; the arguments are the probe's folder, the kind and the number of ranks."""
    folder, kind, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    signal.alarm(INIT_S + int(OTHERS_S))  # its default action needs no help of Python: a hang in the library ends, too
    own = tempfile.mkdtemp(prefix=f"{mark()}-mpi-")
    os.environ["TMPDIR"] = own  # singletons leave a session folder behind (trap E6)
    record: dict[str, Any] = {"marked": any(name in os.environ for name in MARKS), "size": None}
    choose_components()
    try:
        record["size"] = Fabric().size
    except (ImportError, RuntimeError) as error:
        record["error"] = str(error)
    write(folder / f"mpi.{kind}.{os.environ.get(env.PROCID, '0')}.json", record)
    wait_for(lambda: len(list(folder.glob(f"mpi.{kind}.*.json"))) == wanted, OTHERS_S)
    shutil.rmtree(own, ignore_errors=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
