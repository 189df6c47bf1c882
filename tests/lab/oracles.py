"""What the tests of the lab look with: outside of the code under test."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from ftslurm.lab import layout
from ftslurm.lab.cluster import Cluster, lab_root
from ftslurm.slurm import nodeset


def processes_of(name: str) -> list[int]:
    """Every live process that was started with this lab's slurm.conf in its environment: an oracle of its own."""
    mark = f"{lab_root() / name}/etc/slurm.conf".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                belongs = mark in (entry / "environ").read_bytes()
                ended = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
            except OSError:
                continue
            if belongs and not ended:
                found.append(int(entry.name))
    return found


def leftovers_of(name: str) -> list[str]:
    """All that a lab could leave: processes, mounts, interfaces, cgroups."""
    links = subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True, timeout=10).stdout
    interface = layout.LabSpec(name=name).host_interface
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    groups = Path("/sys/fs/cgroup").glob(f"*/ftslurm-lab.{name}.*")
    return [
        *(f"process {pid}" for pid in processes_of(name)),
        *(line for line in mounts if f"/{name}/" in line),
        *(link["ifname"] for link in json.loads(links) if link["ifname"] == interface),
        *map(str, groups),
    ]


def log_size(cluster: Cluster) -> int:
    """How long slurmctld's log is now."""
    path = cluster.layout.log / "slurmctld.log"
    return path.stat().st_size if path.exists() else 0


def drained_for_tasks(cluster: Cluster, since: int) -> list[str]:
    """Nodes that Slurm has drained for "Kill task failed" although it has never missed them; `since` is a log_size."""
    with (cluster.layout.log / "slurmctld.log").open(encoding="utf-8", errors="replace") as file:
        file.seek(since)
        text = file.read()
    drained = set(re.findall(r"update_node: node (\S+) reason set to: Kill task failed", text))
    missed = re.findall(r"(?:Nodes?|failed node) (\S+?),?\s", text)
    return sorted(drained - {node for names in missed for node in nodeset.expand(names)})


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until `condition` holds, or fail."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def pings(cluster: Cluster, source: str, target: str) -> bool:
    """One ICMP echo with one second of patience."""
    return cluster.exec(source, ["ping", "-c1", "-W1", target], timeout=10).returncode == 0


def said_by_agents(root: Path) -> list[str]:
    """The last words of each agent of a run, and what its interpreter has printed."""
    paths = [*root.glob("logs/[0-9]*/agent-*.ndjson"), *root.glob("logs/agents-*.out")]
    return [f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in sorted(paths) if path.is_file()]
