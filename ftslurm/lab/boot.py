"""The scripts that turn an empty set of namespaces into a machine of the lab. Data in, text out; nothing is done here.

Each machine has two. *Power-on* runs outside: it joins the machine's cgroup and unshares the namespaces. *Init* is
process 1 inside: it registers itself (process id and start time as seen from outside, before it does anything else, so
that a lab that crashes at any point can be found again), makes its mounts, starts its daemons and then only reaps.
The machine is switched off by killing process 1: the kernel then ends everything in its PID namespace at once, and
mounts, interfaces and cgroup namespace go with it. See pid_namespaces(7), mount_namespaces(7).

The nodes are unshared from the login host's mount namespace: what it sees (substituted home folders, /etc/hosts,
accounts, slurm.conf) is the image that they boot from, and mounts made later below the lab's folder reach them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftslurm.lab.layout import BRIDGE, LOGIN, LabSpec, Layout
from ftslurm.lab.prerequisites import SBIN, find_tool
from ftslurm.lab.view import Mask

Command = Sequence[str | Path]
_STAGE = Path("/run/stage")
_OUTER_PROC = Path("/run/outer-proc")
_FREEZER = Path("/sys/fs/cgroup/freezer")
# On the machine's own /run: MariaDB names its temporary tables after its process id, which is the same in every lab,
# and two servers that share /tmp delete each other's tables and crash (signal 11 in ha_maria::drop_table).
_DATABASE_SCRATCH = "/run/mariadb"

_HEADER = """\
#!/bin/bash
# Process 1 of {machine}, lab {lab}. Written by `ftslurm lab up`.
set -eu
umask 022
"""
_REGISTER = """\
read -r -a me < {proc}/self/stat
echo "${{me[0]}} ${{me[21]}}" > {path}.new
mv {path}.new {path}
exec {lock}>&-
"""
_REAP = """\
touch {path}
trap '' TERM INT HUP USR1 USR2
while :; do sleep infinity & wait $! || :; done
"""
# An ordinary user may ping, also where the ping program has no capability of its own: icmp(7).
_ALLOW_PING = """\
echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range
"""
_WAIT_FOR_LINK = """\
until [ -e /sys/class/net/eth0 ]; do sleep 0.01; done
"""
_DATABASE = """\
mkdir -p {scratch}
mariadbd {options} >>{log}/mariadbd.log 2>&1 &
until [ -S {socket} ]; do sleep 0.02; kill -0 $!; done
MYSQL_UNIX_PORT={socket} slurmdbd
SECONDS=0
until (exec 3<>/dev/tcp/{address}/6819) 2>/dev/null; do sleep 0.02; [ $SECONDS -lt 15 ]; done
"""
# slurmctld goes to the background before it has read the accounts, and ends without them.
_CONTROLLER = """\
slurmctld
SECONDS=0
until sinfo --noheader >/dev/null 2>&1; do
  sleep 0.05
  [ $SECONDS -lt 15 ] || { echo "slurmctld does not answer"; exit 1; }
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine to be booted."""

    name: str
    spec: LabSpec
    layout: Layout

    @property
    def folder(self) -> Path:
        """The machine's own files."""
        return self.layout.machine(self.name)

    @property
    def registration(self) -> Path:
        """`PID STARTED` of process 1, as seen from outside."""
        return self.folder / "init.pid"

    @property
    def booted(self) -> Path:
        """Exists once process 1 has started all its daemons."""
        return self.folder / "booted"

    @property
    def image(self) -> Path:
        """Exists once the login host's view is complete, so that nodes can boot from it."""
        return self.folder / "image"

    @property
    def log(self) -> Path:
        """What the boot scripts print."""
        return self.layout.log / f"{self.name}.boot.log"

    @property
    def cgroup(self) -> Path:
        """The machine's own freezer cgroup (version 1)."""
        return _FREEZER / f"ftslurm-lab.{self.spec.name}.{self.name}"


def lines(commands: Iterable[Command]) -> str:
    """A script of one quoted command a line."""
    return "".join(shlex.join(str(word) for word in command) + "\n" for command in commands)


def power_on_script(machine: Machine, login_pid: int | None) -> str:
    """Unshare everything and become the machine; `login_pid` is None for the login host itself."""
    script = _HEADER.format(machine=machine.name, lab=machine.spec.name)
    if machine.spec.proctrack == "proctrack/cgroup":
        script += f"echo 0 > {shlex.quote(str(machine.cgroup))}/cgroup.procs\n"
    image = [] if login_pid is None else ["nsenter", f"--mount=/proc/{login_pid}/ns/mnt"]
    unshare = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--propagation", "slave"]
    # The first child after the unshare is process 1; nobody stays outside to wait for it, who would hold the lock too.
    init = ["bash", "-c", 'bash "$0" & exit 0', str(machine.folder / "init.sh")]
    return script + "exec " + lines([[*image, *unshare, *init]])


def login_script(machine: Machine, masks: Sequence[Mask], lock: int) -> str:
    """Process 1 of the login host: the view that all share, the switch, and the cluster's central daemons."""
    layout, spec = machine.layout, machine.spec
    return "".join(
        [
            _HEADER.format(machine=machine.name, lab=spec.name),
            _register(machine, Path("/proc"), lock),
            lines([["mount", "--bind", layout.base, layout.base], ["mount", "--make-shared", layout.base]]),
            lines(_fresh("tmpfs", "/run", "mode=755")),
            lines([["mkdir", "-p", _OUTER_PROC], ["mount", "--bind", "/proc", _OUTER_PROC]]),
            lines(_own_kernel_views(machine)),
            lines(_masked(masks, layout)),
            lines(_image(layout)),
            lines(_switch(spec)),
            _ALLOW_PING,
            lines([["touch", machine.image]]),
            lines([munged(layout), _sshd(machine)]),
            database_lines(layout, spec.address(LOGIN)),
            _CONTROLLER,
            _REAP.format(path=shlex.quote(str(machine.booted))),
        ]
    )


def node_script(machine: Machine, trees: Sequence[Path], lock: int) -> str:
    """Process 1 of a compute node; `trees` are bound back where the private /tmp would hide them."""
    hidden = Mask(Path("/tmp"), tuple(tree for tree in trees if tree.is_relative_to("/tmp")))  # noqa: S108
    return "".join(
        [
            _HEADER.format(machine=machine.name, lab=machine.spec.name),
            _register(machine, _OUTER_PROC, lock),
            lines(_fresh("tmpfs", "/run", "mode=755")),
            lines(_own_kernel_views(machine)),
            lines(_staged(hidden)),
            lines(_fresh("tmpfs", "/tmp", "mode=1777")),  # noqa: S108  the node's own
            lines(_returned(hidden)),
            lines([["mount", "--bind", machine.folder / "scratch", "/scratch"]]),
            _WAIT_FOR_LINK,
            lines(_network_inside(machine)),
            _ALLOW_PING,
            lines([_sshd(machine), ["slurmd"]]),
            _REAP.format(path=shlex.quote(str(machine.booted))),
        ]
    )


def database_socket(layout: Layout) -> Path:
    """Socket of the lab's own MariaDB."""
    return layout.base / "state" / "mariadb.socket"


def database_lines(layout: Layout, address: str) -> str:
    """Start MariaDB and slurmdbd, and wait until slurmdbd answers."""
    socket = database_socket(layout)
    options = [
        "--no-defaults",
        f"--datadir={layout.database}",
        f"--socket={socket}",
        f"--pid-file={layout.base}/state/mariadb.pid",
        f"--tmpdir={_DATABASE_SCRATCH}",
        "--skip-networking",
        "--skip-grant-tables",  # the socket lies in a folder that only root may enter
        "--user=root",
        "--performance-schema=OFF",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=4M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
    ]
    log = shlex.quote(str(layout.log))
    return _DATABASE.format(
        options=shlex.join(options),
        log=log,
        socket=shlex.quote(str(socket)),
        address=address,
        scratch=_DATABASE_SCRATCH,
    )


def _register(machine: Machine, proc: Path, lock: int) -> str:
    """`lock` is the inherited descriptor that keeps others out until the registration stands."""
    return _REGISTER.format(proc=proc, path=shlex.quote(str(machine.registration)), lock=lock)


def _fresh(kind: str, where: str, options: str) -> list[Command]:
    return [["mount", "-t", kind, "-o", options, kind, where]]


def _own_kernel_views(machine: Machine) -> list[Command]:
    """Own /proc, /sys (of the own network), /dev/shm, host name; the cgroup mounts below /sys must survive it."""
    saved = "/run/cgroup"
    commands: list[Command] = [
        ["mount", "-t", "proc", "proc", "/proc"],
        ["hostname", machine.name],
        *_fresh("tmpfs", "/dev/shm", "mode=1777"),  # noqa: S108
        ["mkdir", "-p", saved, "/run/sshd", "/run/lock"],
        ["mount", "--rbind", "/sys/fs/cgroup", saved],
        ["mount", "-t", "sysfs", "sysfs", "/sys"],
        ["mount", "--rbind", saved, "/sys/fs/cgroup"],
        ["umount", "--lazy", saved],
        ["ip", "link", "set", "lo", "up"],
    ]
    if machine.spec.proctrack == "proctrack/cgroup":
        commands += [
            ["umount", _FREEZER],  # seen from outside; mounted again it begins at the machine's own cgroup
            ["mount", "-t", "cgroup", "-o", "freezer", "cgroup", _FREEZER],
        ]
    return commands


def _staged(mask: Mask) -> list[Command]:
    """Hold on to the trees before their folder is covered."""
    commands: list[Command] = []
    for number, tree in enumerate(mask.keep):
        commands += [["mkdir", "-p", _STAGE / str(number)], ["mount", "--rbind", tree, _STAGE / str(number)]]
    return commands


def _returned(mask: Mask) -> list[Command]:
    """Bind the trees at their old places, in the folder that now covers the old one."""
    commands: list[Command] = []
    for number, tree in enumerate(mask.keep):
        commands += [
            ["mkdir", "-p", tree],
            ["mount", "--rbind", _STAGE / str(number), tree],
            ["umount", "--lazy", _STAGE / str(number)],
        ]
    return commands


def _masked(masks: Sequence[Mask], layout: Layout) -> list[Command]:
    commands: list[Command] = []
    for number, mask in enumerate(masks):
        substitute = layout.homes / "root" if mask.folder == Path("/root") else layout.base / f"mask{number}"
        commands += [
            ["mkdir", "-p", "-m", "755", substitute],
            *_staged(mask),
            ["mount", "--bind", substitute, mask.folder],
            *_returned(mask),
        ]
    return commands


def _image(layout: Layout) -> list[Command]:
    """Accounts and names that hold inside of the lab only."""
    binds: list[Command] = [
        ["mount", "--bind", layout.etc / name, f"/etc/{name}"] for name in ("hosts", "passwd", "group")
    ]
    default = Path("/etc/slurm")  # where most distributions look when SLURM_CONF is lost on the way
    return [*binds, ["mount", "--bind", layout.etc, default]] if default.is_dir() else binds


def _switch(spec: LabSpec) -> list[Command]:
    """The switch is a bridge inside the login host's network namespace: nothing of it can be left over outside."""
    address = spec.address(LOGIN)
    return [
        ["ip", "link", "add", BRIDGE, "address", spec.hardware_address(LOGIN), "type", "bridge", "stp_state", "0"],
        ["ip", "address", "add", f"{address}/24", "dev", BRIDGE],
        ["ip", "link", "set", BRIDGE, "up"],
    ]


def _network_inside(machine: Machine) -> list[Command]:
    return [
        ["ip", "address", "add", f"{machine.spec.address(machine.name)}/24", "dev", "eth0"],
        ["ip", "link", "set", "eth0", "up"],
    ]


def munged(layout: Layout) -> Command:
    """The command that starts the lab's own munged."""
    munge = layout.base / "munge"
    return [
        "munged",
        "--force",
        f"--socket={layout.munge_socket}",
        f"--key-file={munge / 'key'}",
        f"--pid-file={munge / 'pid'}",
        f"--seed-file={munge / 'seed'}",
        f"--log-file={layout.log / 'munged.log'}",
        "--num-threads=4",
    ]


def _sshd(machine: Machine) -> Command:
    config, key = machine.layout.etc / "sshd_config", machine.folder / "host_key"
    return [find_tool("sshd") or "sshd", "-f", config, "-h", key]


def environment(layout: Layout) -> dict[str, str]:
    """What process 1 and its daemons see."""
    return {"PATH": SBIN, "LANG": "C.UTF-8", "SLURM_CONF": str(layout.slurm_conf)}
