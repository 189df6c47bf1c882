"""The cluster's central daemons on the login host: finding, stopping and starting them one by one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from enum import StrEnum
from pathlib import Path

from ftslurm.errors import ServiceUnavailable
from ftslurm.lab import boot, machine
from ftslurm.lab.boot import Machine
from ftslurm.lab.layout import LOGIN
from ftslurm.lab.machine import Who
from ftslurm.lab.process import POLL_S, members

_START_S = 20.0
_STOP_S = 5.0


class Daemon(StrEnum):
    """What can be frozen, thawed, killed and started besides nodes."""

    SLURMCTLD = "slurmctld"
    SLURMDBD = "slurmdbd"


_PORTS = {Daemon.SLURMCTLD: 6817, Daemon.SLURMDBD: 6819}
DAEMONS = frozenset(daemon.value for daemon in Daemon)


def pids(login_pid: int, daemon: Daemon) -> list[int]:
    """The daemon's processes (slurmctld has a helper of the same name), by their ids outside."""
    found = []
    for pid in members(login_pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if Path(argv[0].decode(errors="replace").split(":")[0]).name == daemon:
                found.append(pid)
    return found


def send(login_pid: int, daemon: Daemon, number: signal.Signals) -> None:
    """Signal every process of a daemon; nothing happens if it does not run. SIGKILL waits until it is gone.

    Raises:
        ServiceUnavailable: it outlives SIGKILL.
    """
    targets = pids(login_pid, daemon)
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    deadline = time.monotonic() + _STOP_S
    while number == signal.SIGKILL and pids(login_pid, daemon):
        if time.monotonic() > deadline:
            raise ServiceUnavailable(f"{daemon} did not end within {_STOP_S:g} s of SIGKILL")
        time.sleep(POLL_S)


def start(login: Machine, daemon: Daemon) -> None:
    """Start a daemon unless it runs, and wait until it listens.

    Raises:
        ServiceUnavailable: it refused, or does not listen in time; the message is what it printed.
    """
    ref = machine.process_one(login)
    if ref is None or pids(ref.pid, daemon):
        return
    who = Who(env={"MYSQL_UNIX_PORT": str(boot.database_socket(login.layout))})
    address = login.spec.address(LOGIN)
    listening = f"(exec 3<>/dev/tcp/{address}/{_PORTS[daemon]}) 2>/dev/null"
    command = ["bash", "-c", f"{daemon} && until {listening}; do sleep 0.05; done"]
    done = machine.run(machine.entry(login, ref, command, who), _START_S)
    if done.returncode != 0:
        raise ServiceUnavailable(f"{daemon} does not start: {done.stderr.strip()}", hint=f"see {login.layout.log}")
