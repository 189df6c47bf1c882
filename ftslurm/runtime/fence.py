"""Fencing: of an old attempt no process is left on this node before a new one starts.

What belongs to an attempt:

- a process of ours with the run's FTSLURM_RUN_ID and that FTSLURM_ATTEMPT in its environment, and
- whatever descends from one (rank wrappers are subreapers: re-parented daemons stay below them), and
- the members of a job step's cgroup in which one of them was seen: programs that overwrite their environment
  (setproctitle) and have lost their parents. The batch step is never taken for it: mpirun's ranks share it with us.

Processes with FTSLURM_ROLE in their environment (agent, supervisor, ring), this process and its ancestors never belong.
Neither do the launcher's srun clients at first: with their tasks gone they end by themselves, and to kill them before
that harms the node (`runtime.clients`). What is left of them after some seconds is killed then, for their supervisor
may be gone.

A process is named by pid *and* start time, and signalled through a pidfd, so that a reused pid is never hit
(pidfd_open(2), Linux 5.3). Process groups that belong as a whole are killed as one first: no fork gets away from that
(kill(2) with a negative pid), and a crowd that starves the machine dies at once.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ftslurm.runtime import probes

RUN, ATTEMPT, RANK, ROLE = "FTSLURM_RUN_ID", "FTSLURM_ATTEMPT", "FTSLURM_RANK", "FTSLURM_ROLE"
MARK = b"FTSLURM_"
PROC = "/proc"
CGROUP = Path("/sys/fs/cgroup")
ENDED, STOPPED = frozenset("ZXx"), frozenset("Tt")
STEP = re.compile(r"(.*/job_[0-9]+/step_[0-9]+)(?:/|$)")
PAUSE_S = 0.02
LOOKS = 10
GRACE_S = 2.0
CLIENT, CLIENTS_S = "srun", 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proc:
    """A process of ours.

    `start` is in clock ticks since boot. `attempt` is None where the environment names none of this run. `rank` is set
    in the user's program and what it has started, not in the wrapper. `role` is set in ftslurm's own processes.
    """

    pid: int
    start: int
    ppid: int
    pgrp: int
    state: str
    name: str
    threads: int = 1
    attempt: int | None = None
    rank: bool = False
    role: bool = False

    @property
    def client(self) -> bool:
        """A launcher's srun or the shepherd that it keeps, not one that a rank has started."""
        return self.name == CLIENT and self.attempt is not None and not self.rank

    @property
    def ended(self) -> bool:
        """Dead with all its threads: one that hangs in the kernel keeps files and GPUs of what looks like a zombie."""
        return self.state in ENDED and self.threads <= 1

    def __str__(self) -> str:
        state, wait = self.state, _word(self.pid, "wchan")
        for thread in _threads(self.pid) if self.state in ENDED else ():
            state, wait = (thread.state, _word(thread.pid, "wchan")) if thread.state not in ENDED else (state, wait)
        return f"{self.pid} {self.name} (state {state}, in {wait if wait.strip('0') else 'an unknown place'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceReport:
    """`left` says of each process that would not die: pid, name, state and where in the kernel it waits."""

    killed: int
    left: tuple[str, ...]
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Writers:
    """The user's processes of an attempt, by pid; the `stopped` ones are among the `alive`."""

    alive: frozenset[int]
    stopped: frozenset[int]


def find(run_id: str, attempt: int, *, groups: Collection[str] = ()) -> tuple[Proc, ...]:
    """Return what is left of this attempt and older ones. `groups` are cgroups of its job steps, if known."""
    table = _table(run_id)
    return _belonging(table, attempt, groups)


def fence(run_id: str, attempt: int, deadline_s: float = 15.0, *, groups: Collection[str] = ()) -> FenceReport:
    """Kill what is left of this attempt and older ones; return when nothing is left, or at the deadline.

    Blocks; call it in a thread. Reading the process table can itself hang, on a process that waits for dead storage
    with its address space locked: then the report says so at the deadline.
    """
    work = _Fence(run_id, attempt, deadline_s, set(groups))
    thread = threading.Thread(target=work.run, name="fence", daemon=True)
    thread.start()
    thread.join(deadline_s + GRACE_S)
    late = ("the process table cannot be read in time",)
    left = late if thread.is_alive() else work.left
    timer = threading.Timer(CLIENTS_S, end_clients, (run_id, attempt))
    timer.daemon = True
    timer.start()
    return FenceReport(killed=len(work.killed), left=left, took_s=time.monotonic() - work.began)


def end_clients(run_id: str, attempt: int) -> None:
    """Kill what is left of the srun clients; the newest first, so that no shepherd sees its srun go."""
    table = _table(run_id)
    for proc in sorted(table.values(), key=lambda proc: -proc.start):
        if proc.client and proc.attempt is not None and proc.attempt <= attempt:
            _kill(proc)


class _Fence:
    """One fencing: rounds of finding and killing until two in a row find nothing."""

    def __init__(self, run_id: str, attempt: int, deadline_s: float, groups: set[str]) -> None:
        self.run_id, self.attempt, self.groups = run_id, attempt, groups
        self.began = time.monotonic()
        self.end = self.began + deadline_s
        self.spared = _ancestors()
        self.killed: set[tuple[int, int]] = set()
        # Until it has come to its end: one that dies on the way must not be taken for one that left nothing.
        self.left: tuple[str, ...] = ("the fencing itself has failed",)

    def run(self) -> None:
        self._round(_table(self.run_id, looks=1))  # a quick one, in which groups that belong as a whole are seen whole
        empty = 0
        while empty < 2:
            time.sleep(PAUSE_S)
            found = self._round(_table(self.run_id, self._strike))
            empty = 0 if found else empty + 1
            if found and time.monotonic() > self.end:
                self.left = tuple(str(proc) for proc in found)
                return
        self.left = self._held_by_gpus()

    def _round(self, table: dict[int, Proc]) -> tuple[Proc, ...]:
        """Kill what belongs; return whom."""
        found = _belonging(table, self.attempt, self.groups)
        self.groups |= {group for group in map(step_group, (proc.pid for proc in found)) if group}
        _kill_groups(table, found)
        for proc in found:
            _kill(proc)
        self.killed |= {(proc.pid, proc.start) for proc in found}
        return found

    def _strike(self, proc: Proc) -> None:
        """Kill at first sight what carries the mark of the attempt; its kin follows when all have been seen."""
        mine = proc.attempt is not None and proc.attempt <= self.attempt and not proc.role and not proc.client
        if mine and proc.pid not in self.spared:
            _kill(proc)
            self.killed.add((proc.pid, proc.start))

    def _held_by_gpus(self) -> tuple[str, ...]:
        """A GPU's memory is free only when the driver has let go of the process (NVML says so)."""
        killed = {pid for pid, _ in self.killed}
        while killed:
            held = (probes.gpu_pids(self.end - time.monotonic()) or frozenset()) & killed
            if not held:
                break
            if time.monotonic() > self.end:
                return tuple(f"{pid} (ended, but a GPU still belongs to it)" for pid in sorted(held))
            time.sleep(10 * PAUSE_S)
        return ()


def writers(run_id: str, attempt: int) -> Writers:
    """Return the user's processes of exactly this attempt: those who may still write a checkpoint, or are stopped."""
    table = _table(run_id)
    roots = {pid for pid, proc in table.items() if proc.attempt == attempt and proc.rank}
    others = {pid for pid, proc in table.items() if proc.role or (proc.attempt is not None and pid not in roots)}
    alive = {pid for pid in _kin(table, roots, others) if not table[pid].ended}
    return Writers(alive=frozenset(alive), stopped=stopped(alive))


def stopped(pids: Collection[int]) -> frozenset[int]:
    """Return those of the processes that are stopped (by a signal, a debugger, or a suspended job)."""
    found = (_read(f"{PROC}/{pid}") for pid in pids)
    return frozenset(proc.pid for proc in found if proc is not None and proc.state in STOPPED)


def environ_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty where it is gone or not ours to read."""
    pairs = _bytes(f"{PROC}/{pid}/environ").split(b"\0")
    return {name: value for name, _, value in (os.fsdecode(pair).partition("=") for pair in pairs) if name}


def step_group(pid: int) -> str | None:
    """Return the cgroup of the job step that a process is in; None for the batch step and without cgroups."""
    for line in _word(pid, "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        match = STEP.match(path)
        if match and controllers in ("", "freezer", "memory"):
            return f"{_mount(controllers)}{match[1]}"
    return None


def oom_kills(pid: int) -> int | None:
    """Return how often the kernel's memory killer has struck in the cgroup of a process; None where it does not say."""
    for line in _word(pid, "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            name = "memory.oom_control" if controllers else "memory.events"
            with suppress(OSError):
                words = Path(f"{_mount(controllers)}{path}/{name}").read_text(encoding="ascii").split()
                return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else None
    return None


# --------------------------------------------------------------------------------------------------- the process table


def _table(run_id: str, visit: Callable[[Proc], None] = lambda _: None, looks: int = LOOKS) -> dict[int, Proc]:
    """All processes of ours; `visit` gets each one as soon as it is read.

    A process that forks and ends is never in a list that was read in one go. So the list is read again until it brings
    nothing new, and the newest processes are looked at first.
    """
    us, found, seen = os.geteuid(), {}, set[str]()
    for _ in range(looks):
        new = sorted(set(filter(str.isdigit, os.listdir(PROC))) - seen, key=int, reverse=True)
        if not new:
            break
        seen.update(new)
        for name in new:
            proc = _read_ours(name, us)
            if proc is not None:
                found[proc.pid] = _marked(proc, run_id)
                visit(found[proc.pid])
    return found


def _read_ours(name: str, us: int) -> Proc | None:
    with suppress(OSError):  # it has ended meanwhile
        if os.stat(f"{PROC}/{name}").st_uid == us:  # noqa: PTH116 - three times as fast
            return _read(f"{PROC}/{name}")
    return None


def _marked(proc: Proc, run_id: str) -> Proc:
    if MARK not in _bytes(f"{PROC}/{proc.pid}/environ"):
        return proc
    environ = environ_of(proc.pid)
    number = environ.get(ATTEMPT, "") if environ.get(RUN) == run_id else ""
    attempt = int(number) if number.isdecimal() else None
    return replace(proc, attempt=attempt, rank=RANK in environ, role=ROLE in environ)


def _belonging(table: dict[int, Proc], attempt: int, groups: Iterable[str]) -> tuple[Proc, ...]:
    """Who belongs to this attempt or an older one."""
    roots = {pid for pid, proc in table.items() if proc.attempt is not None and proc.attempt <= attempt}
    barred = {pid for pid, proc in table.items() if proc.role or (proc.attempt is not None and pid not in roots)}
    barred |= _ancestors() | {pid for pid, proc in table.items() if proc.client}
    for group in groups:
        members = _members(group) & table.keys()
        roots |= members if not members & barred else set()
    return tuple(table[pid] for pid in sorted(_kin(table, roots, barred)) if not table[pid].ended)


def _kin(table: dict[int, Proc], roots: Iterable[int], barred: Collection[int]) -> set[int]:
    """The roots and their descendants; what is barred is left out with all below it."""
    children: dict[int, list[int]] = {}
    for proc in table.values():
        children.setdefault(proc.ppid, []).append(proc.pid)
    found: set[int] = set()
    open_ = [pid for pid in roots if pid not in barred]
    while open_:
        pid = open_.pop()
        found.add(pid)
        open_ += [child for child in children.get(pid, ()) if child not in found and child not in barred]
    return found


def _ancestors() -> set[int]:
    """This process and those above it."""
    pid, found = os.getpid(), set()
    while (proc := _read(f"{PROC}/{pid}")) is not None:
        found.add(pid)
        pid = proc.ppid
    return found


def _members(group: str) -> set[int]:
    """The processes in a cgroup and in those below it."""
    found: set[int] = set()
    for folder, _, _ in os.walk(group):  # which passes over what goes away meanwhile
        with suppress(OSError):
            found.update(map(int, Path(folder, "cgroup.procs").read_text(encoding="ascii").split()))
    return found


def _read(folder: str) -> Proc | None:
    """One process (or thread) by its folder in /proc; None where it is gone. Fields of stat: proc(5)."""
    name, _, rest = _bytes(f"{folder}/stat").decode(errors="replace").rpartition(")")
    field = rest.split()
    if len(field) < 20:
        return None
    return Proc(
        pid=int(folder.rpartition("/")[2]),
        name=name.partition("(")[2],
        state=field[0],
        ppid=int(field[1]),
        pgrp=int(field[2]),
        threads=int(field[17]),
        start=int(field[19]),
    )


def _threads(pid: int) -> list[Proc]:
    with suppress(OSError):
        folder = f"{PROC}/{pid}/task"
        return [thread for tid in os.listdir(folder) if (thread := _read(f"{folder}/{tid}")) is not None]
    return []


def _bytes(path: str) -> bytes:
    """A file of /proc; empty where the process is gone, or is not ours."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return b"".join(iter(lambda: os.read(fd, 2**18), b""))
        finally:
            os.close(fd)
    return b""


def _word(pid: int, name: str) -> str:
    return _bytes(f"{PROC}/{pid}/{name}").decode(errors="replace")


def _mount(controllers: str) -> Path:
    """Where a cgroup hierarchy is mounted: version 2 has one, version 1 one per controller (cgroups(7))."""
    return CGROUP / controllers if controllers else CGROUP


# ------------------------------------------------------------------------------------------------------------ killing


def _kill(proc: Proc) -> None:
    """Send SIGKILL to exactly this process; nothing happens where it is gone."""
    try:
        handle = os.pidfd_open(proc.pid)
    except ProcessLookupError:
        return
    except OSError:  # a kernel before 5.3, or a container that forbids it
        handle = -1
    try:
        now = _read(f"{PROC}/{proc.pid}")
        if now is None or now.start != proc.start:
            return
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: a setuid program; it is reported as left
            if handle < 0:
                os.kill(proc.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        if handle >= 0:
            os.close(handle)


def _kill_groups(table: dict[int, Proc], found: Collection[Proc]) -> None:
    """Kill process groups that belong as a whole, in one call each, which no fork gets away from."""
    pids = {proc.pid for proc in found}
    for group in {proc.pgrp for proc in found}:
        members = [proc for proc in table.values() if proc.pgrp == group and not proc.ended]
        if all(proc.pid in pids for proc in members) and any(map(_is_still, members)):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)


def _is_still(proc: Proc) -> bool:
    """Whether a process is there, and in its group: then the group's number is nobody else's."""
    now = _read(f"{PROC}/{proc.pid}")
    return now is not None and (now.start, now.pgrp) == (proc.start, proc.pgrp)
