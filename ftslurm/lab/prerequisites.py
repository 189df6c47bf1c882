"""Is everything here that a lab needs? Says all that is missing in one line, and which Debian packages bring it."""

from __future__ import annotations

import os
import shutil
from typing import Final

from ftslurm.errors import ServiceUnavailable, UsageError

# Where distributions put daemons; an ordinary PATH may lack these.
SBIN: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PACKAGES: Final = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "srun": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server",
    "munged": "munge",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ip": "iproute2",
    "tc": "iproute2",
    "ping": "iputils-ping",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "setsid": "util-linux",
}


def find_tool(name: str) -> str | None:
    """Absolute path of a program, also when it lies in an sbin folder that is not on PATH."""
    return shutil.which(name) or shutil.which(name, path=SBIN)


def missing_tools() -> dict[str, str]:
    """Program -> Debian package, for every program that cannot be found."""
    return {tool: package for tool, package in PACKAGES.items() if find_tool(tool) is None}


def require_root() -> None:
    """Raise unless the caller is root.

    Raises:
        UsageError: he is not.
    """
    if os.geteuid() != 0:
        raise UsageError("the lab needs root: it makes network, mount and process namespaces", hint="use sudo")


def require() -> None:
    """Raise unless a lab can come up here.

    Raises:
        UsageError: the caller is not root.
        ServiceUnavailable: programs are missing; the hint is the command that installs them.
    """
    require_root()
    missing = missing_tools()
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise ServiceUnavailable(
            f"programs that the lab needs are missing: {', '.join(sorted(missing))}",
            hint=f"apt-get install --no-install-recommends {packages}",
        )
