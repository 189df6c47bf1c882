"""The classes of faults that `scripts/bench detection` injects, with what is right to conclude from each.

Only the lab's own processes and links are touched.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults import DidNotCome, environ_of

from ftslurm import journal
from ftslurm.faults.catalogue import by_name
from ftslurm.lab.cluster import Cluster
from ftslurm.paths import RunPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom a fault hits; `rank` is one that runs on `node`, `supervisor` a process id of this machine."""

    lab: Cluster
    node: str
    rank: int
    supervisor: int
    run_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """A process of a run: its id on this machine, and its node."""

    pid: int
    node: str


def supervisor_of(run: Path) -> Found:
    """The supervisor that holds the lease of a run; others may live, parked or waiting to be needed.

    Raises:
        DidNotCome: there is none.
    """
    holder = journal.holder(RunPaths(run))
    if holder is not None:
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and _inner_pid(folder) == holder.pid and _serves(folder, run.name, holder.host):
                return Found(int(folder.name), holder.host)
    raise DidNotCome(f"no supervisor of {run.name}")


def _inner_pid(folder: Path) -> int:
    """The id that a process (its folder in /proc) has in its own PID namespace: NSpid in proc(5); 0 when it is gone."""
    try:
        status = (folder / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return next((int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:")), 0)


def _serves(folder: Path, run_id: str, node: str) -> bool:
    """Whether it is a supervisor of this run on this node; other labs have nodes of the same names."""
    try:
        words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:  # it ended while we looked
        return False
    ours = "ftslurm.runtime.serve" in words and any(word.endswith(f"/{run_id}") for word in words)
    return ours and environ_of(folder).get("SLURMD_NODENAME") == node


def process_of(run_id: str, rank: int) -> int:
    """Process id of the newest incarnation of a rank's program.

    Raises:
        DidNotCome: there is none.
    """
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            environ = environ_of(folder)
            if environ.get("FTSLURM_RUN_ID") == run_id and environ.get("FTSLURM_RANK") == str(rank):
                found.append((int(environ.get("FTSLURM_ATTEMPT", "0")), int(folder.name)))
    if not found:
        raise DidNotCome(f"no process of rank {rank}")
    return max(found)[1]


def _signal_rank(number: signal.Signals) -> Callable[[Target], float]:
    def send(target: Target) -> float:
        pid = process_of(target.run_id, target.rank)
        now = time.time()
        os.kill(pid, number)
        return now

    return send


def _on_node(method: Callable[[Cluster, str], None]) -> Callable[[Target], float]:
    def hurt(target: Target) -> float:
        now = time.time()
        method(target.lab, target.node)
        return now

    return hurt


def _kill_supervisor(target: Target) -> float:
    now = time.time()
    os.kill(target.supervisor, signal.SIGKILL)
    return now


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A class of faults.

    Attributes:
        fault: its name in the catalogue, which says what is right to conclude from it.
        break_it: injects it and returns when.
        where: the target: "rank" or "node" (not the supervisor's), "host" (the supervisor's), "none".
        verdict: the action that is the verdict; "epoch": a later supervisor.
    """

    fault: str
    break_it: Callable[[Target], float]
    where: str = "none"
    verdict: str = "FenceAttempt"

    @property
    def slugs(self) -> frozenset[str]:
        """What the run may rightly say of it."""
        return by_name(self.fault).causes

    @property
    def costs_node(self) -> bool:
        """Whether it is right to exclude the target."""
        return by_name(self.fault).costs_node

    @property
    def stops_training(self) -> bool:
        """Whether a new attempt must follow; else a successor of the supervisor, and training must not stop."""
        return by_name(self.fault).stops_training


CLASSES: dict[str, Kind] = {
    "kill": Kind(fault="kill", break_it=_signal_rank(signal.SIGKILL)),
    "cut": Kind(fault="node-cut", break_it=_on_node(Cluster.cut), where="node"),
    "stop": Kind(fault="stop", break_it=_signal_rank(signal.SIGSTOP)),
    "power": Kind(fault="node-power", break_it=_on_node(Cluster.kill), where="node"),
    "freeze": Kind(fault="node-freeze", break_it=_on_node(Cluster.freeze), where="node"),
    "oneway": Kind(
        fault="net-one-way", break_it=_on_node(lambda lab, node: lab.slow(node, loss_percent=100)), where="node"
    ),
    "supervisor": Kind(fault="supervisor-kill", break_it=_kill_supervisor, verdict="epoch"),
    "host": Kind(fault="host-cut", break_it=_on_node(Cluster.cut), where="host"),
}
