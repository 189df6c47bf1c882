"""Slow and lossy links: by the kernel's netem where it has one, else by a relay program. See tc-netem(8)."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass

from ftslurm.errors import UsageError
from ftslurm.lab import machine, network
from ftslurm.lab.boot import Machine
from ftslurm.lab.machine import Who
from ftslurm.lab.process import ProcessRef, running

_PROGRAM = "ftslurm.lab.relay"
_START_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkQuality:
    """What happens to packets on their way to a node."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0  # the delay varies by up to this much, so packets overtake each other
    loss_percent: float = 0.0

    def __post_init__(self) -> None:
        if min(self.delay_ms, self.jitter_ms, self.loss_percent) < 0 or self.loss_percent > 100:
            raise UsageError(f"a link cannot be like this: {self}", hint="delays from 0 ms, loss from 0 to 100 percent")

    @property
    def is_good(self) -> bool:
        """Nothing is wrong with it."""
        return not (self.delay_ms or self.jitter_ms or self.loss_percent)


def degrade(login: Machine, ref: ProcessRef, node: str, quality: LinkQuality) -> None:
    """Give a node's link this quality, whatever it had before."""
    repair(ref, node)
    if quality.is_good:
        return
    shape = ["delay", f"{quality.delay_ms:g}ms", f"{quality.jitter_ms:g}ms", "loss", f"{quality.loss_percent:g}%"]
    if network.slow_by_kernel(ref.pid, node, shape):
        return
    node_end, switch_end = network.insert(ref.pid, node)
    numbers = (quality.delay_ms, quality.jitter_ms, quality.loss_percent)
    ready = login.folder / f"relay-{node}"
    ready.unlink(missing_ok=True)
    arguments = [node_end, switch_end, str(ready), *(f"{number:g}" for number in numbers)]
    program = [sys.executable, "-I", "-m", _PROGRAM, *arguments]
    machine.start(machine.entry(login, ref, program, Who()), login.layout.log / "relay.log", _START_S)
    machine.wait_for(login, ready, _START_S)


def repair(ref: ProcessRef, node: str) -> None:
    """Make a node's link good; nothing happens if it is."""
    for pid in running(ref.pid, ["-m", _PROGRAM, node]):
        machine.send(pid, signal.SIGKILL)
    network.make_good(ref.pid, node)
