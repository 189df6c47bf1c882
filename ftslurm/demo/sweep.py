"""What a run leaves on its nodes, removed: its folders on scratch and in /tmp. Runs in the demonstration's job.

    $ python -I -m ftslurm.demo.sweep RUN_ID SCRATCH

The run's last processes may still be writing: what comes back is removed again, for some seconds.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

from ftslurm.paths import LocalPaths
from ftslurm.runtime.scratch import scratch_of

QUIET_S = 0.5
PATIENCE_S = 10.0


def places(run_id: str, wanted: str) -> list[Path]:
    """The folders of a run on this node."""
    scratch = scratch_of(wanted, os.environ)
    own = [scratch / f"ftslurm-{os.getuid()}" / "checkpoints" / run_id] if scratch else []
    return [LocalPaths.of(run_id).root, *own]


def sweep(run_id: str, wanted: str) -> list[Path]:
    """Remove them, and the user's folders above them where nothing else is in them; returns what would not go."""
    found = places(run_id, wanted)
    until = time.monotonic() + PATIENCE_S
    quiet = time.monotonic()
    while time.monotonic() < min(until, quiet + QUIET_S):
        for path in found:
            if path.exists():
                shutil.rmtree(path, ignore_errors=True)
                quiet = time.monotonic()
        time.sleep(0.05)
    for folder in {above for path in found for above in path.parents if above.name.startswith("ftslurm-")}:
        for each in (folder / "checkpoints", folder):
            with suppress(OSError):  # another run's, or none
                each.rmdir()
    return [path for path in found if path.exists()]


if __name__ == "__main__":
    left = sweep(sys.argv[1], sys.argv[2])
    for path in left:
        print(f"{os.uname().nodename}: {path} is left", flush=True)
    sys.exit(bool(left))
