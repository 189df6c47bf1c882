"""What ftslurm costs while nothing happens: CPU time of its processes on each node, and the start of its command line.

A run whose ranks only sleep is watched for a while; the CPU time of ftslurm's own processes, and of the children they
have waited for, is read from /proc (proc(5), fields 14 to 17 of stat) at both ends. Ranks are not counted, and neither
are Slurm's own processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import machine
from faults import environ_of, wait_until
from laboratory import NODES, laboratory
from methods import make_place, submit_ftslurm

if TYPE_CHECKING:
    from ftslurm.lab.cluster import Cluster

ROLES = {
    "ftslurm.runtime.agent": "agent",
    "ftslurm.runtime.serve": "supervisor",
    "ftslurm.observer": "observer",
    "ftslurm.runtime.ring": "ring",
    "run": "parent",
    "rank.py": "wrapper",
}
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_S = 180.0

CONFIG = """name: idle
command: [sleep, "{sleep_s}"]
run_root: {runs}
resources: {{nodes: {nodes}, ranks_per_node: 1, time: "30:00"}}
launch: {{mpi: none}}
"""


def role_of(argv: list[str]) -> str:
    """Which of ftslurm's processes this is; empty for any other."""
    if "python" not in Path(argv[0]).name:
        return ""
    names = [Path(word).name for word in argv[1:6]]
    if "run" in names and "ftslurm" not in names:
        return ""
    return next((ROLES[name] for name in names if name in ROLES), "")


def cpu_times(job_id: str) -> dict[tuple[str, str, int], float]:
    """(node, role, pid) -> CPU seconds so far, of ftslurm's processes of this job."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            argv = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # no process, or it has just ended
            continue
        environ = environ_of(folder) if role_of(argv) else {}
        node = environ.get("SLURMD_NODENAME")  # a process that is being started shows a part of its environment only
        if node and environ.get("SLURM_JOB_ID") == job_id:
            ticks = sum(int(word) for word in stat.rpartition(")")[2].split()[11:15])
            found[node, role_of(argv), int(folder.name)] = ticks * TICK_S
    return found


def at_rest(lab: Cluster, seconds: float) -> list[dict[str, Any]]:
    """CPU share (1.0 is one core) of each role on each node, over `seconds`, of a run that sleeps."""
    place = make_place(lab, f"{time.time_ns()}-idle", 0, 0)
    runs = json.dumps(str(place.runs))
    job_id = submit_ftslurm(lab, place, CONFIG.format(sleep_s=int(seconds) + 600, runs=runs, nodes=NODES))
    wait_until("all ranks", START_S, lambda: sum(role == "wrapper" for _, role, _ in cpu_times(job_id)) == NODES)
    time.sleep(min(15.0, seconds))  # the start is not the rest
    before, began = cpu_times(job_id), time.monotonic()
    time.sleep(seconds)
    after, took_s = cpu_times(job_id), time.monotonic() - began
    lab.restore(timeout=240)
    shares: dict[tuple[str, str], float] = defaultdict(float)
    for (node, role, pid), used in after.items():
        shares[node, role] += (used - before.get((node, role, pid), 0.0)) / took_s
    return [{"node": node, "role": role, "share": round(share, 5)} for (node, role), share in sorted(shares.items())]


def command_line(times: int) -> dict[str, list[float]]:
    """Seconds of `ftslurm --help` and of `python -c pass`, in turn."""
    commands = {"ftslurm --help": ["ftslurm", "--help"], "python -c pass": [sys.executable, "-c", "pass"]}
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times):
        for name, argv in commands.items():
            began = time.monotonic()
            subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, timeout=30)
            took[name].append(round(time.monotonic() - began, 4))
    return took


def render(value: dict[str, Any]) -> str:
    """The page."""
    rest = value["at_rest"]
    nodes = sorted({one["node"] for one in rest})
    roles = sorted({one["role"] for one in rest})
    share = {(one["node"], one["role"]): one["share"] for one in rest}
    rows = []
    for node in nodes:
        cells = [share.get((node, role)) for role in roles]
        total = sum(cell for cell in cells if cell is not None)
        rows.append([node, *("-" if cell is None else f"{cell:.2%}" for cell in cells), f"{total:.2%}"])
    starts = [
        [f"`{name}`", f"{median(took) * 1000:.0f} ms", f"{min(took) * 1000:.0f} to {max(took) * 1000:.0f} ms"]
        for name, took in value["command_line"].items()
    ]
    parts = [
        "# What ftslurm costs while nothing happens\n",
        machine.described(value["machine"]),
        value["limits"] + "\n",
        f"## Share of one core on each node, over {value['seconds']:g} s of a run whose ranks sleep\n",
        machine.table(["node", *roles, "together"], rows),
        "## Start of the command line\n",
        machine.table(["command", "median", "range"], starts),
    ]
    return "\n".join(parts)


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the run is watched (default 60)")
    parser.add_argument("--quick", action="store_true", help="2 seconds, 3 starts")
    parser.add_argument("--lab", default="", help="use this lab, which is up, and leave it up")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the results")
    args = parser.parse_args()
    seconds = 2.0 if args.quick else args.seconds
    with laboratory(args.lab) as lab:
        value = {
            "machine": machine.describe(machine.slurm_version(lab)),
            "limits": machine.limits(),
            "seconds": seconds,
            "at_rest": at_rest(lab, seconds),
            "command_line": command_line(3 if args.quick else 20),
        }
    machine.write_json(args.out / "overhead.json", value)
    (args.out / "overhead.md").write_text(render(value), encoding="utf-8")
    print(render(value))
    return 0


if __name__ == "__main__":
    sys.exit(main())
