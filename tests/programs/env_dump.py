"""Writes its environment, host, arguments and working folder as JSON to `DIR/attempt-A-rank-R.json`, and exits.

    env_dump.py DIR [--fail-once MARKER] [ARGUMENTS ...]

With --fail-once the attempt that finds no MARKER creates it and exits 1, so that there are two attempts to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path


def main() -> int:
    """Write the file as a whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fail-once", type=Path, help="fail while this file does not exist (rank 0 creates it)")
    parser.add_argument("--linger", type=float, default=0, help="seconds to stay alive")
    args, rest = parser.parse_known_args()
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    attempt = os.environ.get("FTSLURM_ATTEMPT", "none")
    facts = {
        "environ": dict(os.environ),
        "host": socket.gethostname(),
        "argv": rest,
        "cwd": str(Path.cwd()),
        "executable": sys.executable,
        "pid": os.getpid(),
        "time": time.time(),
    }
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / f"attempt-{attempt}-rank-{rank}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(facts, indent=1))
    part.replace(path)
    time.sleep(args.linger)
    if args.fail_once and rank == "0" and not args.fail_once.exists():
        args.fail_once.touch()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
