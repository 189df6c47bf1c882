"""Shared storage that can be frozen, filled or broken: attaching it to a running lab, and its faults.

It appears at the same path on the login host and on every node, because the nodes' mounts follow those of the login
host (mount propagation, mount_namespaces(7)). Outside of the lab only the backing folder is to be seen, which is what
a test reads to learn what really was written.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ftslurm.errors import ServiceUnavailable
from ftslurm.lab import machine
from ftslurm.lab.boot import Machine
from ftslurm.lab.machine import Who
from ftslurm.lab.passthrough import Fault
from ftslurm.lab.process import POLL_S, ProcessRef, running

_ATTACH_S = 15.0
_PROGRAM = "ftslurm.lab.passthrough"


class Storage:
    """The ill storage of one lab; `login` is its login host."""

    def __init__(self, login: Machine) -> None:
        self._login = login

    @property
    def path(self) -> Path:
        """Where the lab's machines see it."""
        return self._login.layout.slow_shared

    @property
    def backing(self) -> Path:
        """Where its files really lie; readable also while it is frozen, and from outside of the lab."""
        return self._login.layout.base / "slowshared.backing"

    def from_outside(self, path: Path) -> Path:
        """The same file as it is seen from outside of the lab; what does not lie on this storage is where it is."""
        return self.backing / path.relative_to(self.path) if path.is_relative_to(self.path) else path

    def attach(self) -> None:
        """Mount it on every machine; nothing happens if it is mounted.

        Raises:
            ServiceUnavailable: libfuse or mfusepy is missing, or it does not mount.
        """
        if self._pids():
            return
        self._require()
        for folder in (self.backing, self.path):
            folder.mkdir(exist_ok=True)
        self.backing.chmod(0o1777)
        self._say(Fault.NONE)
        program = [sys.executable, "-I", "-m", _PROGRAM, str(self.backing), str(self.path), str(self._control)]
        machine.start(machine.entry(self._login, self._login_ref(), program, Who()), self._log, _ATTACH_S)
        self._wait(self._is_mounted, "it does not mount")

    def detach(self) -> None:
        """Unmount it; whoever waits in it gets an error.

        Raises:
            ServiceUnavailable: it is not attached, or does not go.
        """
        self._signal(signal.SIGKILL)
        self._wait(lambda: not self._pids(), "its program does not end")
        unmount = ["umount", "--lazy", str(self.path)]
        machine.run(machine.entry(self._login, self._login_ref(), unmount, Who()), _ATTACH_S)
        self._wait(lambda: not self._is_mounted(), "it does not unmount")

    def freeze(self) -> None:
        """Every operation blocks from now on; with `fail(Fault.HANG)` even SIGKILL does not end who waits."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Blocked operations go on."""
        self._signal(signal.SIGCONT)

    def fail(self, fault: Fault) -> None:
        """From now on operations fail in this way.

        Raises:
            ServiceUnavailable: it is not attached.
        """
        self._require_attached()
        self._say(fault)

    def _say(self, fault: Fault) -> None:
        fresh = self._control.with_suffix(".new")
        fresh.write_text(fault.value, encoding="ascii")
        fresh.replace(self._control)

    def restore(self) -> None:
        """Make it well; nothing happens if it is not attached."""
        if self._pids():
            self.fail(Fault.NONE)
            self.thaw()

    @property
    def _control(self) -> Path:
        return self._login.layout.base / "state" / "storage-fault"

    @property
    def _log(self) -> Path:
        return self._login.layout.log / "storage.log"

    def _login_ref(self) -> ProcessRef:
        ref = machine.process_one(self._login)
        if ref is None:
            raise ServiceUnavailable(f"lab {self._login.spec.name} is not up")
        return ref

    def _pids(self) -> list[int]:
        return running(self._login_ref().pid, ["-m", _PROGRAM])

    def _require_attached(self) -> list[int]:
        pids = self._pids()
        if not pids:
            raise ServiceUnavailable("the lab's storage is not attached", hint="ftslurm lab storage attach")
        return pids

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._require_attached():
            machine.send(pid, number)

    def _is_mounted(self) -> bool:
        mounts = Path(f"/proc/{self._login_ref().pid}/mounts").read_text(encoding="utf-8")
        return f" {self.path} fuse" in mounts

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + _ATTACH_S
        while not condition():
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"the lab's storage: {complaint}", hint=f"see {self._log}")
            time.sleep(POLL_S)

    @staticmethod
    def _require() -> None:
        if not Path("/dev/fuse").exists():
            raise ServiceUnavailable("this kernel offers no FUSE: /dev/fuse is missing", hint="modprobe fuse")
        if importlib.util.find_spec("mfusepy") is None:
            raise ServiceUnavailable("the Python package mfusepy is missing", hint="pip install mfusepy")
        try:
            importlib.import_module("mfusepy")
        except OSError as caught:
            raise ServiceUnavailable("libfuse cannot be loaded", hint="apt-get install fuse3") from caught
