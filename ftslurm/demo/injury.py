"""A rank of a run is killed, on its own node: the program that the user wrote, not the wrapper around it.

    $ python -I -m ftslurm.demo.injury RUN_ID RANK

Prints the process that was killed and when, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from ftslurm.errors import UsageError

RUN, RANK, ROLE = b"FTSLURM_RUN_ID", b"FTSLURM_RANK", b"FTSLURM_ROLE"


def program_of(run_id: str, rank: int) -> int | None:
    """The process that is this rank's program: the oldest that carries the rank in its environment."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError, IndexError):
                folder = Path("/proc", entry)
                pairs = (pair.partition(b"=") for pair in (folder / "environ").read_bytes().split(b"\0"))
                told = {name: value for name, _, value in pairs}
                if told.get(RUN) == run_id.encode() and told.get(RANK) == str(rank).encode() and ROLE not in told:
                    start = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
                    found.append((start, int(entry)))
    return min(found)[1] if found else None


def kill(run_id: str, rank: int) -> dict[str, object]:
    """Kill it; what was killed, and when.

    Raises:
        UsageError: there is no such process here.
    """
    pid = program_of(run_id, rank)
    if pid is None:
        raise UsageError(f"no process of rank {rank} of run {run_id} is on {os.uname().nodename}")
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    return {"pid": pid, "node": os.uname().nodename, "at": at}


if __name__ == "__main__":
    try:
        print(json.dumps(kill(sys.argv[1], int(sys.argv[2]))), flush=True)
    except UsageError as error:
        sys.exit(str(error))
