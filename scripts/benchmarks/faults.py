"""Breaking things from outside, and waiting for a job to get somewhere. Only the lab's own processes are touched."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import progress
from methods import PROGRAM, Place

from ftslurm.lab.cluster import Cluster

POLL_S = 0.05


class DidNotCome(RuntimeError):
    """Something that was waited for did not happen in time."""


def wait_until(what: str, limit_s: float, test: Callable[[], bool]) -> None:
    """Poll until `test` holds.

    Raises:
        DidNotCome: it did not within `limit_s` seconds.
    """
    deadline = time.monotonic() + limit_s
    while not test():
        if time.monotonic() > deadline:
            raise DidNotCome(f"{what}: not within {limit_s:g} s")
        time.sleep(POLL_S)


def wait_for_step(place: Place, step: int, limit_s: float) -> None:
    """Wait until training has come to `step`."""
    wait_until(f"step {step}", limit_s, lambda: progress.last_step(progress.read(place.progress)) >= step)


def rank_on(node: str, place: Place) -> int:
    """Process id (as this machine counts) of the rank that runs on `node`.

    Raises:
        DidNotCome: there is none.
    """
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _is_rank(folder, place) and environ_of(folder).get("SLURMD_NODENAME") == node:
            return int(folder.name)
    raise DidNotCome(f"no rank on {node}")


def _is_rank(folder: Path, place: Place) -> bool:
    """True for the interpreter that runs the program itself, not for a launcher that has it among its arguments."""
    try:
        argv = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:  # it ended while we looked
        return False
    program = [word for word in argv[1:] if word != "-u"]
    return program[:1] == [str(PROGRAM)] and str(place.progress) in argv


def environ_of(folder: Path) -> dict[str, str]:
    """The environment that a process (its folder in /proc) was started with; empty when it is gone."""
    try:
        raw = (folder / "environ").read_bytes().decode("utf-8", "replace")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in raw.split("\0") if "=" in pair)


def kill_rank(lab: Cluster, place: Place) -> float:
    """SIGKILL the rank of the last node; return when."""
    pid = rank_on(lab.nodes[-1], place)
    now = time.time()
    os.kill(pid, signal.SIGKILL)
    return now


def cut_node(lab: Cluster, place: Place) -> float:  # noqa: ARG001 - all faults are called alike
    """Pull the network cable of the last node; return when. Silence from then on: no reset, no farewell."""
    now = time.time()
    lab.cut(lab.nodes[-1])
    return now


def cut_host(lab: Cluster, place: Place) -> float:  # noqa: ARG001 - all faults are called alike
    """Pull the network cable of the batch host, which runs the job's script; return when."""
    now = time.time()
    lab.cut(lab.nodes[0])
    return now


FAULTS: dict[str, Callable[[Cluster, Place], float]] = {"kill": kill_rank, "cut": cut_node, "host": cut_host}
