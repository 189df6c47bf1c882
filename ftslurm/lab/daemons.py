"""The cluster's central daemons on the login host: finding, stopping and starting them one by one."""

from __future__ import annotations

import contextlib
import os
import signal
from enum import StrEnum
from pathlib import Path

from ftslurm.errors import ServiceUnavailable
from ftslurm.lab import boot, machine
from ftslurm.lab.boot import Machine
from ftslurm.lab.machine import Who
from ftslurm.lab.process import members

_START_S = 20.0


class Daemon(StrEnum):
    """What can be frozen, thawed, killed and started besides nodes."""

    SLURMCTLD = "slurmctld"
    SLURMDBD = "slurmdbd"


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
    """Signal every process of a daemon; nothing happens if it does not run."""
    for pid in pids(login_pid, daemon):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def start(login: Machine, login_pid: int, daemon: Daemon) -> None:
    """Start a daemon unless it runs.

    Raises:
        ServiceUnavailable: it refused; the message is what it printed.
    """
    ref = machine.process_one(login)
    if ref is None or pids(login_pid, daemon):
        return
    who = Who(env={"MYSQL_UNIX_PORT": str(boot.database_socket(login.layout))})
    done = machine.run(machine.entry(login, ref, [daemon.value], who), _START_S)
    if done.returncode != 0:
        raise ServiceUnavailable(f"{daemon} does not start: {done.stderr.strip()}", hint=f"see {login.layout.log}")
