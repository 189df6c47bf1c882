"""Does one deed to the run's processes on this node, holds it, and undoes it: the hand of `ftslurm inject`.

    $ python -I -m ftslurm.faults.hand RUN_DIR ORDER

ORDER is JSON: the deed, the rank, how long it lasts at most. Prints a line of JSON when it is done, and another one
when it is undone: at the end of stdin, after `lasts_s`, or at a signal, whichever comes first. So nothing outlives who
asked for it, also when he is killed, or the way to this node breaks.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftslurm.errors import FtslurmError, UsageError
from ftslurm.faults import confine, gpus, processes
from ftslurm.faults.damage import Wanted, damage
from ftslurm.faults.deeds import Confine, Damage, Deed, Limit, Prey, ReportXid, ResetGpu, Send, Stutter, from_record
from ftslurm.faults.processes import Proc

PREY_POLL_S = 0.05
LASTING = (signal.SIGSTOP,)
"""Signals that have to reach everything that a rank has started, not its program alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked of this hand; `more` is what single deeds have to know."""

    run_dir: Path
    deed: Deed
    rank: int | None = None
    lasts_s: float | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, run_dir: str, text: str) -> Order:
        """The order of a command line."""
        told = json.loads(text)
        rank, lasts_s = told.get("rank"), told.get("lasts_s")
        deed = from_record(told["deed"])
        return cls(run_dir=Path(run_dir), deed=deed, rank=rank, lasts_s=lasts_s, more=told.get("more") or {})

    def prey(self, kind: Prey) -> list[Proc]:
        """The processes that it is for; where they are just being started they are waited for, as long as is said.

        Raises:
            UsageError: there are none here.
        """
        until = time.monotonic() + float(self.more.get("patience_s") or 0.0)
        while not (found := self._here(kind)) and time.monotonic() < until:
            time.sleep(PREY_POLL_S)
        if not found:
            whose = f"rank {self.rank}" if kind is Prey.RANK else f"the {kind}"
            raise UsageError(f"no process of {whose} of run {self.run_dir.name} is on {os.uname().nodename}")
        return found

    def _here(self, kind: Prey) -> list[Proc]:
        return processes.prey(self.run_dir.name, kind, self.rank, _holder(self))


@dataclass(slots=True)
class Grip:
    """A deed that is done: when, to which processes, how it is undone, and what has to go on while it lasts."""

    at: float
    pids: list[int]
    note: str = ""
    undo: Callable[[], None] | None = None
    pulse: Iterator[float] | None = None


def grasp(order: Order) -> Grip:
    """Do the deed.

    Raises:
        UsageError: there is nobody to do it to.
        FtslurmError: this node cannot do it.
    """
    deed = order.deed
    if isinstance(deed, Send):
        return _send(order, deed)
    if isinstance(deed, Stutter):
        return _stutter(order, deed)
    if isinstance(deed, Limit):
        return _limit(order, deed)
    if isinstance(deed, Confine):
        found = order.prey(Prey.RANK)
        group, at = confine.confine([proc.pid for proc in found], deed), time.time()
        return Grip(at, [proc.pid for proc in found], f"cgroup {group.path}", group.undo)
    if isinstance(deed, Damage):
        told = damage(Wanted.of(order.run_dir, order.more), deed.way)
        return Grip(time.time(), [], "; ".join(told) or "no copy here")
    if isinstance(deed, ReportXid):
        return Grip(time.time(), [], gpus.report_xid())
    if isinstance(deed, ResetGpu):
        return Grip(time.time(), [], gpus.reset())
    raise UsageError(f"{type(deed).__name__} is not done on a node")


def _send(order: Order, deed: Send) -> Grip:
    number = signal.Signals[deed.signal]
    found = order.prey(deed.to)
    if deed.to is Prey.RANK and number not in LASTING:
        found = found[:1]
    at, hit = time.time(), _hit_all(order, deed, found, number)

    def back() -> None:
        for proc in hit:
            _signal(proc, signal.Signals[deed.back])

    return Grip(at, [proc.pid for proc in hit], deed.signal, back if deed.back else None)


def _hit_all(order: Order, deed: Send, found: list[Proc], number: signal.Signals) -> list[Proc]:
    """Signal them, and what they start meanwhile; to stop a parent comes too late for a child that it has just made."""
    hit: list[Proc] = []
    fresh = found
    while fresh:
        for proc in fresh:
            _signal(proc, number)
        hit += fresh
        again = deed.to is Prey.NODE or number in LASTING
        known = {proc.pid for proc in hit}
        seen = processes.prey(order.run_dir.name, deed.to, order.rank, _holder(order)) if again else []
        fresh = [proc for proc in seen if proc.pid not in known]
    return hit


def _holder(order: Order) -> int:
    return int(order.more.get("holder") or 0)


def _signal(proc: Proc, number: signal.Signals) -> None:
    if proc.lives():
        try:
            os.kill(proc.pid, number)
        except ProcessLookupError:
            return  # it has just ended


def _stutter(order: Order, deed: Stutter) -> Grip:
    found = order.prey(deed.to)

    def all_get(number: signal.Signals) -> None:
        for proc in found:
            _signal(proc, number)

    def pulse() -> Iterator[float]:
        while True:
            all_get(signal.SIGSTOP)
            yield deed.stopped_s
            all_get(signal.SIGCONT)
            yield deed.every_s - deed.stopped_s

    share = f"stopped for {deed.stopped_s:g} s of every {deed.every_s:g} s"
    return Grip(time.time(), [proc.pid for proc in found], share, lambda: all_get(signal.SIGCONT), pulse())


def _limit(order: Order, deed: Limit) -> Grip:
    import resource

    kind = getattr(resource, f"RLIMIT_{deed.resource}")
    found, before = order.prey(deed.to), {}
    at = time.time()
    for proc in found:
        if proc.lives():
            soft, hard = resource.prlimit(proc.pid, kind)
            resource.prlimit(proc.pid, kind, (deed.value, hard))
            before[proc] = (soft, hard)

    def back() -> None:
        for proc, limits in before.items():
            if proc.lives():
                try:
                    resource.prlimit(proc.pid, kind, limits)
                except ProcessLookupError:
                    continue  # it has just ended

    return Grip(at, [proc.pid for proc in before], f"RLIMIT_{deed.resource} {deed.value}", back)


# ---------------------------------------------------------------------------------------------------------- the holding


class End:
    """How it is told to end: by a signal, or by the end of stdin.

    A signal leaves a byte in a pipe (`signal.set_wakeup_fd`), so that one that comes before the waiting has begun ends
    it, too; an exception that the handler raises would be lost there.
    """

    def __init__(self) -> None:
        self._told, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def comes_within(self, wait_s: float) -> bool:
        """Wait for it; infinity: for ever."""
        ready, _, _ = select.select([sys.stdin, self._told], [], [], None if wait_s == float("inf") else wait_s)
        return self._told in ready or (sys.stdin in ready and not os.read(sys.stdin.fileno(), 1024))


def hold(grip: Grip, lasts_s: float | None, end: End) -> None:
    """Return at the end, or when the time is over; let what has to go on go on."""
    until = time.monotonic() + lasts_s if lasts_s is not None else float("inf")
    pause = float("inf") if grip.pulse is None else 0.0
    while (left := until - time.monotonic()) > 0:
        if grip.pulse is not None:
            pause = next(grip.pulse)
        if end.comes_within(min(left, pause)):
            return


def _tell(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do it, hold it, undo it."""
    end = End()
    order = Order.parse(sys.argv[1], sys.argv[2])
    grip = grasp(order)
    try:
        _tell({"at": grip.at, "node": os.uname().nodename, "pids": grip.pids, "note": grip.note})
        if grip.undo is not None:
            hold(grip, order.lasts_s, end)
    finally:
        if grip.undo is not None:
            grip.undo()
    _tell({"undone_at": time.time()})


if __name__ == "__main__":
    try:
        main()
    except FtslurmError as error:
        sys.exit(str(error))
