"""The probe's task on one node: what is here, and can the other nodes be reached?

Started by a job step, one on every node, by ftslurm's own interpreter. The tasks meet through files in the probe's
folder on shared storage, each written under a temporary name and renamed; every wait has a deadline. The result is
`node.<name>.json`. A folder counts as node-local when a marker that another node wrote there is not seen from here,
*and* its own marker is.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftslurm.core.events import Finding, Outcome, Witness
from ftslurm.doctor.folder import examine
from ftslurm.errors import FtslurmError
from ftslurm.runtime.network import address_of, free_port
from ftslurm.runtime.probes import ProbeTarget, confirm
from ftslurm.runtime.scratch import KEEPS_EXTERN, LOCAL_CANDIDATES, LOCAL_PATHS, mount_of, slurm_release
from ftslurm.slurm import env

MEET_S = 45.0
CONNECT_S = 5.0
LOAD_BYTES = 2**20
CONFIRM_S = 3.0
NVML_S = 10.0
POLL_S = 0.1
NVML = """
import pynvml
pynvml.nvmlInit()
print(pynvml.nvmlDeviceGetCount())
"""


def main() -> int:
    """Do this node's part; the arguments are the probe's folder and the names of all its nodes.

    Without names: remove what other tasks of the probe have left here because they were killed.
    """
    folder, nodes = Path(sys.argv[1]), tuple(sys.argv[2:3])
    if not nodes:
        sweep()
        return 0
    nodes = tuple(nodes[0].split(","))
    name = os.environ.get(env.NODE_NAME) or socket.gethostname()
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    write(folder / f"node.{name}.json", Node(folder, name, nodes, request).examined())
    return 0


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a file of the probe in one piece."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(record), encoding="utf-8")
    temporary.rename(path)


def mark() -> str:
    """The beginning of the name of everything that this probe leaves outside its folder."""
    return f".ftslurm-doctor-{os.environ.get(env.JOB_ID, '0')}"


def candidates(wanted: str = "") -> list[Path]:
    """Folders that may be node-local scratch: the one that was asked for first."""
    named = [os.environ[name] for name in LOCAL_CANDIDATES if os.environ.get(name)]
    return list(dict.fromkeys(Path(text) for text in (wanted, *named, *LOCAL_PATHS) if text))


def sweep() -> None:
    """Remove this probe's markers and temporary folders."""
    for folder in {*candidates(), Path(tempfile.gettempdir())}:
        with suppress(OSError):
            for path in folder.glob(f"{mark()}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def wait_for(test: Callable[[], object], timeout_s: float = MEET_S) -> bool:
    """Poll until `test` holds; whether it did in time."""
    end = time.monotonic() + timeout_s
    while not test():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True


class Node:
    """One node of the probe job."""

    def __init__(self, folder: Path, name: str, nodes: tuple[str, ...], request: Mapping[str, Any]) -> None:
        self._folder, self._name, self._nodes, self._request = folder, name, nodes, request
        self._mark = mark()

    def examined(self) -> dict[str, Any]:
        """Everything about this node; parts that fail say so and spoil nothing else."""
        record = self._here()
        with socket.socket() as server:
            record |= self._listen(server, record["address"])
            candidates = self._mark_scratch()
            try:
                self._announce(record, candidates)
                record["met"] = wait_for(lambda: len(self._others("here")) == len(self._nodes) - 1)
                record["scratch"] = {str(path): self._scratch(path) for path in candidates}
                record["peers"] = {
                    peer: self._peer(peer, each, record["address"]) for peer, each in self._others("here").items()
                }
                record["witnesses"] = self._witnesses()
                # Nobody takes markers and server away before everybody has looked.
                write(self._folder / f"looked.{self._name}.json", {})
                if record["met"]:
                    wait_for(lambda: len(self._others("looked")) == len(self._nodes) - 1)
            finally:
                for path in candidates:
                    with suppress(OSError):
                        (path / f"{self._mark}-{self._name}").unlink()
        record["beside"] = wait_for((self._folder / "beside.json").exists)
        return record

    def _here(self) -> dict[str, Any]:
        """What this node is and has, without asking others."""
        record: dict[str, Any] = {
            "node": self._name,
            "python": platform.python_version(),
            "run_root": examine(self._folder),
            "cgroup": "2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "1 or none",
            "tmp_private": _is_of_job(Path("/tmp")),  # noqa: S108 - only looked up
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "nvml": _nvml(),
            "gpus_seen": Path("/proc/driver/nvidia/version").exists(),
            "programs": [each for each in ("ping", "ssh", "rsync") if shutil.which(each)],
            "leftovers": _leftovers(),
        }
        try:
            record["resolved"] = socket.gethostbyname(socket.gethostname())
        except OSError as error:
            record["resolved"] = f"unknown: {error}"
        record["interfaces"] = _interfaces()
        record["address"], record["interface"] = self._address(record["interfaces"])
        return record

    def _address(self, interfaces: Mapping[str, str]) -> tuple[str, str]:
        """The address that network.interface gives, and the interface that has it."""
        towards = next((name for name in self._nodes if name != self._name), self._name)
        try:
            address = address_of(self._request["interface"], towards)
        except (FtslurmError, OSError) as error:
            return f"unknown: {error}", ""
        return address, next((name for name, each in interfaces.items() if each == address), "")

    def _listen(self, server: socket.socket, address: str) -> dict[str, Any]:
        """Answer every connection with this node's clock, on a port of the range that ranks will use."""
        try:
            port = free_port(tuple(self._request["ports"]), set())
            server.bind(("", port))
            server.listen(64)
        except (FtslurmError, OSError) as error:
            return {"port": 0, "listen_error": str(error)}
        threading.Thread(target=_serve, args=(server,), name=f"clock {address}", daemon=True).start()
        return {"port": port}

    def _mark_scratch(self) -> list[Path]:
        """Leave a marker in every folder that may be node-local scratch; those that cannot be written are left out."""
        wanted = self._request["scratch"]
        marked = []
        for path in candidates(wanted if wanted.startswith("/") else ""):
            with suppress(OSError):
                (path / f"{self._mark}-{self._name}").write_text(self._name)
                marked.append(path)
        return marked

    def _announce(self, record: Mapping[str, Any], candidates: list[Path]) -> None:
        write(
            self._folder / f"here.{self._name}.json",
            {**{key: record[key] for key in ("address", "port", "interfaces")}, "scratch": [*map(str, candidates)]},
        )

    def _others(self, kind: str) -> dict[str, dict[str, Any]]:
        """What the other nodes have written so far."""
        found = {}
        for name in self._nodes:
            with suppress(OSError, ValueError):
                if name != self._name:
                    text = (self._folder / f"{kind}.{name}.json").read_text(encoding="utf-8")
                    found[name] = json.loads(text)
        return found

    def _scratch(self, path: Path) -> dict[str, Any]:
        """A candidate: is it really of this node alone, how large, how fast."""
        names = os.listdir(path)
        foreign = [name for name in self._nodes if name != self._name and f"{self._mark}-{name}" in names]
        private = _is_of_job(path)
        return {
            **examine(path),
            "own_seen": f"{self._mark}-{self._name}" in names,
            "foreign_seen": foreign,
            "private": private,
            "wiped": private and slurm_release() < KEEPS_EXTERN,
        }

    def _peer(self, name: str, told: Mapping[str, Any], own: str) -> dict[str, Any]:
        """Another node's server by its address, from this node's `own`, and how far its clock is off."""
        record: dict[str, Any] = {"address": told["address"], **_clock(told["address"], told["port"], own)}
        if not record["connected"]:
            others = {each: address for each, address in told["interfaces"].items() if address != told["address"]}
            record["by"] = [each for each, address in others.items() if _clock(address, told["port"], "")["connected"]]
        try:
            record["resolved"] = socket.gethostbyname(name)
        except OSError:
            record["resolved"] = ""
        return record

    def _witnesses(self) -> dict[str, list[str]]:
        """The next node, asked about as a suspected one would be: each witness's outcome and words."""
        others = self._others("here")
        if not others:
            return {}
        ring = [*self._nodes[self._nodes.index(self._name) + 1 :], *self._nodes]
        name = next(each for each in ring if each in others)
        target = ProbeTarget(
            node=name, address=others[name]["address"], port=others[name]["port"],
            job_id=os.environ.get(env.JOB_ID, ""), slurm=_not_asked,
        )  # fmt: skip
        found = confirm(target, CONFIRM_S)
        return {str(each.witness): [str(each.outcome), each.detail, f"{each.took_s:.3f}"] for each in found}


def _not_asked() -> Finding:
    return Finding(witness=Witness.SLURM, outcome=Outcome.UNKNOWN, detail="not asked")


def _is_of_job(path: Path) -> bool:
    """Whether it lies in a folder that goes when the job goes (job_container/tmpfs)."""
    return mount_of(path).is_of_job(os.environ.get(env.JOB_ID, ""))


def _serve(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(CONNECT_S)
                with suppress(OSError):  # one that breaks spoils nothing for the others
                    connection.sendall(f"{time.time():.6f}\n".encode() + bytes(LOAD_BYTES))


def _clock(address: str, port: int, own: str) -> dict[str, Any]:
    """Connect from an address of this node; the offset of the other clock is taken at the middle of the round trip.

    What is connected must carry data, too: full packets get lost where hosts believe in a larger MTU than the network.
    """
    began, wall = time.monotonic(), time.time()
    try:
        source = (own, 0) if own and not own.startswith("unknown") else None
        with socket.create_connection((address, port), timeout=CONNECT_S, source_address=source) as connection:
            file = connection.makefile("rb")
            there, took = float(file.readline()), time.monotonic() - began
            if len(file.read(LOAD_BYTES)) < LOAD_BYTES:
                return {"connected": False, "error": "the connection broke under load"}
    except (OSError, ValueError) as error:
        return {"connected": False, "error": str(error)}
    return {"connected": True, "took_s": took, "offset_s": there - (wall + took / 2)}


def _interfaces() -> dict[str, str]:
    """Interface -> IPv4 address, of those that have one."""
    found = {}
    for _, name in socket.if_nameindex():
        with suppress(FtslurmError, OSError):
            found[name] = address_of(name, "")
    return found


def _nvml() -> dict[str, Any]:
    """The number of GPUs that NVML shows, from a child process; None and the reason where it cannot tell."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", NVML], capture_output=True, text=True, timeout=NVML_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"count": None, "why": f"no answer within {NVML_S:g} s"}
    if done.returncode == 0:
        return {"count": int(done.stdout.split()[-1]), "why": ""}
    return {"count": None, "why": (done.stderr.strip().splitlines() or ["no word"])[-1][:200]}


def _leftovers() -> int:
    """Session folders of MPI runtimes that nobody has removed (trap E6)."""
    found = 0
    for folder in ("/tmp", "/dev/shm"):  # noqa: S108 - only counted
        with suppress(OSError):
            names = os.listdir(folder)
            found += sum(name.startswith(("ompi.", "pmix-", "prte.", "openmpi-sessions-")) for name in names)
    return found


if __name__ == "__main__":
    sys.exit(main())
