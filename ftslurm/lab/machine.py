"""Switching machines of the lab on and off, entering them, and what can be done to their processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftslurm.errors import ServiceUnavailable
from ftslurm.lab import boot
from ftslurm.lab.boot import Machine
from ftslurm.lab.layout import LOGIN
from ftslurm.lab.prerequisites import SBIN
from ftslurm.lab.process import POLL_S, ProcessRef, end, members, read_stat

_BOOT_S = 45.0


class CommandTimedOut(ServiceUnavailable):
    """A command in the lab did not end in time and was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who runs a command in a machine, and with what in the environment besides the usual."""

    user: str = "root"
    env: Mapping[str, str] = field(default_factory=dict)


def process_one(machine: Machine) -> ProcessRef | None:
    """The recorded process 1 of a machine if it lives."""
    try:
        ref = ProcessRef.parse(machine.registration.read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    return ref if ref is not None and ref.is_alive() else None


def power_on(machine: Machine, script: str, login_pid: int | None, lock: int) -> ProcessRef:
    """Start process 1 of a machine and return as soon as it has registered itself.

    Raises:
        ServiceUnavailable: it did not come to life; the message ends with what the boot script printed.
    """
    for stale in (machine.registration, machine.booted, machine.image):
        stale.unlink(missing_ok=True)
    (machine.folder / "init.sh").write_text(script, encoding="utf-8")
    outer = machine.folder / "power-on.sh"
    outer.write_text(boot.power_on_script(machine, login_pid), encoding="utf-8")
    _make_cgroup(machine)
    with machine.log.open("ab") as log:
        outside = subprocess.run(
            ["bash", str(outer)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=boot.environment(machine.layout),
            cwd="/",
            pass_fds=(lock,),
            start_new_session=True,
            check=False,
            timeout=_BOOT_S,
        )
    if outside.returncode != 0:
        raise _boot_failed(machine)
    wait_for(machine, machine.registration)
    ref = process_one(machine)
    if ref is None:
        raise _boot_failed(machine)
    return ref


def wait_for(machine: Machine, mark: Path, timeout_s: float = _BOOT_S) -> None:
    """Wait until a boot script has made a file.

    Raises:
        ServiceUnavailable: the machine died before, or took too long.
    """
    deadline = time.monotonic() + timeout_s
    while not mark.exists():
        dead = machine.registration.exists() and process_one(machine) is None
        if dead or time.monotonic() > deadline:
            raise _boot_failed(machine)
        time.sleep(POLL_S)


def power_off(machine: Machine, patience_s: float = 10.0) -> bool:
    """End everything in the machine at once, as when its power is cut; False if something outlives `patience_s`.

    Only a process that waits for frozen storage can outlive it. It will never run again, but ends with the storage.
    """
    ref = process_one(machine)
    gone = ref is None or end(ref, patience_s)
    machine.registration.unlink(missing_ok=True)
    machine.booted.unlink(missing_ok=True)
    if gone:
        _remove_cgroup(machine)
    return gone


def stop_all(init_pid: int) -> None:
    """SIGSTOP every process of a machine; its kernel goes on answering ping and TCP connect."""
    stopped: set[int] = set()
    while fresh := set(members(init_pid)) - stopped:  # a process may fork while its siblings are being stopped
        for pid in fresh:
            send(pid, signal.SIGSTOP)
        stopped |= fresh


def continue_all(init_pid: int) -> None:
    """SIGCONT every process of a machine, and the nsenter processes outside that stopped with their child."""
    inside = members(init_pid)
    parents = {parent for pid in inside if (parent := _parent(pid)) is not None} - set(inside)
    for pid in (*inside, *(pid for pid in parents if _is_stopped_nsenter(pid))):
        send(pid, signal.SIGCONT)


def is_frozen(init_pid: int) -> bool:
    """True when process 1 of the machine is stopped."""
    stat = read_stat(init_pid)
    return stat is not None and stat[1] in "Tt"


def entry(machine: Machine, ref: ProcessRef, argv: Sequence[str], who: Who) -> list[str]:
    """The argv that runs `argv` inside a machine: all its namespaces, the user's ids, a fresh environment."""
    layout, user = machine.layout, who.user
    env = {
        "PATH": f"{Path(sys.prefix, 'bin')}:{SBIN}",
        "HOME": str(layout.home(user)),
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
        "SLURM_CONF": str(layout.slurm_conf),
        "FTSLURM_LAB": machine.spec.name,
        **who.env,
    }
    become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
    assignments = [f"{name}={value}" for name, value in env.items()]
    clean = ["env", "--ignore-environment", f"--chdir={env['HOME']}", *assignments]
    return ["nsenter", f"--target={ref.pid}", "--all", "--", *become, *clean, *argv]


def run(command: Sequence[str], timeout_s: float, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run an `entry` command; on time-out everything in its session is killed.

    Raises:
        CommandTimedOut: it was still running after `timeout_s` seconds.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            out, err = child.communicate(stdin, timeout=timeout_s)
        except BaseException as caught:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            if isinstance(caught, subprocess.TimeoutExpired):
                raise CommandTimedOut(f"no answer within {timeout_s:g} s: {' '.join(command)}") from caught
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def start(command: Sequence[str], log: Path, timeout_s: float) -> None:
    """Start an `entry` command that stays when its starter has gone; its output goes to a log."""
    with log.open("ab") as out:
        subprocess.run(
            ["setsid", "--fork", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            check=True,
            timeout=timeout_s,
        )


class DidNotBoot(ServiceUnavailable):
    """A machine of a lab has ended before it was up."""


def _boot_failed(machine: Machine) -> DidNotBoot:
    tail = ""
    with contextlib.suppress(FileNotFoundError):
        tail = "\n".join(machine.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    where = "the login host" if machine.name == LOGIN else f"node {machine.name}"
    return DidNotBoot(f"{where} of lab {machine.spec.name} did not boot: {tail}", hint=f"see {machine.layout.log}")


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("PPid:"):
                return int(line.split()[1])
    return None


def _is_stopped_nsenter(pid: int) -> bool:
    stat = read_stat(pid)
    if stat is None or stat[1] not in "Tt":
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == "nsenter"
    return False


def _make_cgroup(machine: Machine) -> None:
    if machine.spec.proctrack == "proctrack/cgroup":
        machine.cgroup.mkdir(exist_ok=True)


def _remove_cgroup(machine: Machine) -> None:
    """Remove the machine's cgroups, deepest first; the kernel may need a moment after the last process ended."""
    deadline = time.monotonic() + 2.0
    while machine.cgroup.is_dir():
        groups = sorted((path for path in machine.cgroup.rglob("*") if path.is_dir()), reverse=True)
        for group in (*groups, machine.cgroup):
            with contextlib.suppress(OSError):
                group.rmdir()
        if time.monotonic() > deadline:
            raise ServiceUnavailable(f"cgroup {machine.cgroup} is still in use")
        time.sleep(POLL_S if machine.cgroup.is_dir() else 0)
