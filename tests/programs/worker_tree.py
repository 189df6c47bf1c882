"""A program whose children would outlive it: what fencing has to find and kill.

Each rank starts three: a plain child; one that ignores SIGTERM and SIGHUP; one that is re-parented by a double fork, in
a session of its own, with SIGTERM ignored. Each writes `<kind> <pid> <start time in clock ticks>` to
`DIR/attempt-A-rank-R-<kind>` and sleeps. After --steps times --pace seconds the rank ends its children and exits 0.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

KINDS = ("plain", "stubborn", "orphan")


def announce(folder: Path, kind: str) -> Path:
    """Leave this process's id and start time (proc(5), field 22), which together are never used twice."""
    ticks = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]
    path = folder / f"attempt-{os.environ.get('FTSLURM_ATTEMPT', '-')}-rank-{os.environ.get('RANK', '0')}-{kind}"
    part = path.with_name(f".{path.name}")
    part.write_text(f"{kind} {os.getpid()} {ticks}\n")
    part.replace(path)
    return path


def child(folder: Path, kind: str) -> None:
    """The life of one child: it ends after ten minutes at the latest, whoever forgets it."""
    if kind != "plain":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if kind == "orphan":
        os.setsid()
        if os.fork():
            os._exit(0)
    announce(folder, kind)
    time.sleep(600)
    os._exit(0)


def main() -> None:
    """Start the children, work, end them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pace", type=float, default=0.1)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    children = []
    for kind in KINDS:
        pid = os.fork()
        if not pid:
            child(args.folder, kind)
        children.append(pid)
    mine = announce(args.folder, "rank")
    for _ in range(args.steps):
        time.sleep(args.pace)
    orphan = mine.with_name(mine.name.removesuffix("rank") + "orphan")
    for pid in [children[0], children[1], int(orphan.read_text().split()[1])]:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    print("done", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
