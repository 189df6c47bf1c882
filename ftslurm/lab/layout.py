"""What a lab consists of: its name, size and addresses, and where each of its files lies. Pure data, no I/O.

A lab is a set of *machines*: the login host (which also carries slurmctld, slurmdbd, the database and munged) and the
nodes. Everything is derived from `LabSpec` and the lab's folder, so that a later process can find it all again.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

LOGIN = "login"
USER = "ftlab"
BRIDGE = "switch"
NODE_LIMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSpec:
    """Size and shape of one lab; written to state.json when it comes up."""

    name: str = "dev"
    node_count: int = 4
    prefix: str = "n"
    cpus: int = 8  # per node, as Slurm believes; the machine may have fewer
    memory_mb: int = 16000  # per node, as Slurm believes
    gpus: int = 8  # per node; files like /dev/null that pose as devices
    slurmd_timeout_s: int = 30
    prolog_flags: str = ""
    proctrack: str = ""  # empty: proctrack/cgroup where the kernel offers a freezer of version 1, else linuxproc
    subnet: str = ""  # "10.77.3"; empty: derived from the name
    generation: int = 0  # how often this lab has come up; keeps job ids apart
    uid: int = 0  # of the ordinary user, inside of the lab only

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the compute nodes, in order."""
        return tuple(f"{self.prefix}{number}" for number in range(1, self.node_count + 1))

    @property
    def machines(self) -> tuple[str, ...]:
        """The login host and the nodes."""
        return (LOGIN, *self.nodes)

    @property
    def host_address(self) -> str:
        """Address of the real machine on the lab's switch."""
        return f"{self.subnet}.254"

    def address(self, machine: str) -> str:
        """IPv4 address of the login host or of a node."""
        if machine == LOGIN:
            return f"{self.subnet}.1"
        return f"{self.subnet}.{11 + self.nodes.index(machine)}"

    def hardware_address(self, machine: str) -> str:
        """A fixed MAC, so that a node that is switched on again is the same station for its peers."""
        octets = [int(part) for part in self.address(machine).split(".")]
        return "02:f7:" + ":".join(f"{octet:02x}" for octet in octets)

    @property
    def host_interface(self) -> str:
        """Name of the interface that joins the real machine to the switch (15 characters are the kernel's limit)."""
        return "ftl-" + hashlib.sha256(self.name.encode()).hexdigest()[:8]


def subnet_candidates(name: str) -> list[str]:
    """Possible /24 prefixes for a lab of this name, best first: two labs do not collide, and a lab keeps its own."""
    digest = hashlib.sha256(name.encode()).digest()
    return [f"10.{96 + digest[i] % 96}.{digest[i + 1]}" for i in range(0, len(digest) - 1, 2)]


def first_free(candidates: list[str], routes: list[str]) -> str | None:
    """The first candidate that overlaps none of the routed networks (CIDR strings, `default` ignored)."""
    taken = [ipaddress.ip_network(route, strict=False) for route in routes if route != "default"]
    for candidate in candidates:
        network = ipaddress.ip_network(f"{candidate}.0/24")
        if not any(network.overlaps(other) for other in taken if other.version == 4):
            return candidate
    return None


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of one lab below `<root>/<name>`."""

    root: Path
    name: str
    base: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", self.root / self.name)

    @property
    def lock(self) -> Path:
        """Held while a lab comes up or goes down; outside of `base`, which may be removed."""
        return self.root / f".{self.name}.lock"

    @property
    def state(self) -> Path:
        """state.json: the LabSpec and the boot id of the machine."""
        return self.base / "state.json"

    @property
    def complete(self) -> Path:
        """Exists once the lab has come up completely; without it the next `up` begins afresh."""
        return self.base / "complete"

    @property
    def generation(self) -> Path:
        """How often the lab has come up; survives `down`."""
        return self.base / "generation"

    @property
    def etc(self) -> Path:
        """Configuration; bound over /etc/slurm on every machine."""
        return self.base / "etc"

    @property
    def slurm_conf(self) -> Path:
        """The cluster's slurm.conf."""
        return self.etc / "slurm.conf"

    @property
    def log(self) -> Path:
        """Logs of every daemon."""
        return self.base / "log"

    @property
    def shared(self) -> Path:
        """Stands in for NFS: the same path on the login host, on the nodes and outside; mode 1777."""
        return self.base / "shared"

    @property
    def slow_shared(self) -> Path:
        """Mount point of the storage that can be frozen or filled (`ftslurm lab storage`)."""
        return self.base / "slowshared"

    @property
    def homes(self) -> Path:
        """Home folders, one for all machines."""
        return self.base / "home"

    def home(self, user: str) -> Path:
        """Home as the machines see it: root's is bound over /root, the user's is used where it lies."""
        return Path("/root") if user == "root" else self.homes / user

    @property
    def munge_socket(self) -> Path:
        """Socket of the lab's own munged."""
        return self.base / "munge" / "munge.socket"

    @property
    def database(self) -> Path:
        """Data folder of the lab's own MariaDB."""
        return self.base / "state" / "database"

    @property
    def database_cache(self) -> Path:
        """Prepared databases, shared by all labs."""
        return self.root / ".database-cache"

    def machine(self, name: str) -> Path:
        """What belongs to one machine: its scratch, spool, keys and boot scripts."""
        return self.base / "machines" / name
