"""Building a lab and taking it apart: folders, files, machines, in this order; and the same backwards.

`dismantle` works on any state that a crash can leave, because each machine has registered its process 1 before it did
anything, and everything else of it (mounts, interfaces, cgroup namespace, daemons, jobs) hangs on that process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ftslurm.errors import ServiceUnavailable, UsageError
from ftslurm.lab import boot, database, keys, machine, network, record, slurm_conf, view
from ftslurm.lab.boot import Machine
from ftslurm.lab.layout import LOGIN, LabSpec, Layout, first_free, subnet_candidates
from ftslurm.lab.prerequisites import find_tool

_FREEZER = Path("/sys/fs/cgroup/freezer/cgroup.procs")
_SCRATCH = Path("/scratch")


def uncounted(done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Display:
    """Who hears what is being done, in lines, and how much of it is done."""

    report: Callable[[str], None] = lambda _: None
    count: Callable[[int, int], None] = uncounted


def resolve(spec: LabSpec, layout: Layout) -> LabSpec:
    """Fill in what depends on this machine: a free network, a free user id, how job steps are tracked.

    Raises:
        UsageError: nodes cannot be called so.
        ServiceUnavailable: every network that a lab of this name could have is in use.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,7}", spec.prefix):  # a node's name also names its network interface
        raise UsageError(f"node names cannot begin with {spec.prefix!r}", hint="one to eight of a-z, 0-9 and -")
    subnet = spec.subnet or first_free(subnet_candidates(spec.name), network.routed_networks())
    if not subnet:
        raise ServiceUnavailable(f"no free network below 10.96.0.0/11 for lab {spec.name}")
    return replace(
        spec,
        subnet=subnet,
        uid=spec.uid or slurm_conf.free_uid(),
        proctrack=spec.proctrack or ("proctrack/cgroup" if _FREEZER.exists() else "proctrack/linuxproc"),
        generation=_last_generation(layout) + 1,
    )


def assemble(spec: LabSpec, layout: Layout, lock: int, display: Display) -> None:
    """Start every machine of a lab with all its daemons; Slurm may still need a moment after that.

    A machine that does not boot gets a second try: a busy machine may leave a daemon less time than it asks for.

    Raises:
        UsageError: the lab's ordinary user cannot be given access to what it must run.
        ServiceUnavailable: a part did not start.
    """
    try:
        _assemble(spec, layout, lock, display)
    except machine.DidNotBoot as error:
        display.report(f"{error}; trying once more")
        dismantle(layout)
        _assemble(spec, layout, lock, display)


def _assemble(spec: LabSpec, layout: Layout, lock: int, display: Display) -> None:
    display.report(f"lab {layout.name}: preparing {spec.node_count} nodes")
    trees = view.needed_trees()
    _require_access(layout, trees)
    _make_folders(spec, layout)
    record.save(layout, spec)
    slurm_conf.write(spec, layout)
    keys.write(spec, layout)
    database.put_in_place(spec, layout)
    display.report(f"lab {layout.name}: starting slurmctld, slurmdbd, munged and {spec.node_count} nodes")
    login = Machine(name=LOGIN, spec=spec, layout=layout)
    ref = machine.power_on(login, boot.login_script(login, view.masks(trees), lock), None, lock)
    machine.wait_for(login, login.image)
    network.plug_in_host(ref.pid, spec)
    nodes = [Machine(name=node, spec=spec, layout=layout) for node in spec.nodes]
    for node in nodes:
        boot_node(node, ref.pid, lock)
    for number, booting in enumerate((login, *nodes)):
        display.count(number, len(nodes) + 1)
        machine.wait_for(booting, booting.booted)


def boot_node(node: Machine, login_pid: int, lock: int) -> None:
    """Switch a compute node on and plug its network cable in; it goes on booting by itself."""
    trees = [*view.needed_trees(), node.layout.base]
    ref = machine.power_on(node, boot.node_script(node, trees, lock), login_pid, lock)
    network.plug_in(login_pid, node.spec, node.name, ref.pid)


def dismantle(layout: Layout, count: Callable[[int, int], None] = uncounted) -> None:
    """End whatever a lab of this name is or left behind, in any state; logs and `shared` stay.

    `count` hears how many of how many machines have ended.
    """
    layout.complete.unlink(missing_ok=True)
    spec = record.load(layout) or LabSpec(name=layout.name)
    folders = sorted((layout.base / "machines").glob("*"))
    if not record.is_of_this_boot(layout):
        for folder in folders:
            (folder / "init.pid").unlink(missing_ok=True)
    # The login host first: with it ends its storage, for which processes of the nodes may be waiting.
    names = sorted((folder.name for folder in folders), key=lambda name: (name != LOGIN, name))
    for number, name in enumerate(names):
        count(number, len(names))
        if not machine.power_off(Machine(name=name, spec=spec, layout=layout)):
            raise ServiceUnavailable(f"{name} of lab {layout.name} does not end: a process hangs in the kernel")
    if find_tool("ip"):
        network.unplug_host(spec)
    for name in ("machines", "state", "etc", "munge", "home", "gpu"):
        shutil.rmtree(layout.base / name, ignore_errors=True)
    for mask in layout.base.glob("mask*"):
        shutil.rmtree(mask, ignore_errors=True)
    layout.state.unlink(missing_ok=True)


def _last_generation(layout: Layout) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(layout.generation.read_text(encoding="ascii"))
    return 0


def _require_access(layout: Layout, trees: list[Path]) -> None:
    closed = view.unreadable(trees)
    if closed:
        raise UsageError(
            f"the lab's ordinary user could not read {', '.join(map(str, closed))}",
            hint="make these folders readable for everybody (chmod a+rx)",
        )
    layout.base.mkdir(parents=True, exist_ok=True)
    above = view.closed_ancestor(layout.base)
    if above is not None:
        raise UsageError(
            f"the lab cannot live below {above}, which only its owner may enter",
            hint="set FTSLURM_LAB_DIR to another folder, such as /var/lib/ftslurm-lab",
        )


def _make_folders(spec: LabSpec, layout: Layout) -> None:
    _SCRATCH.mkdir(exist_ok=True)  # only a place to mount each node's own scratch on
    machines = [layout.machine(name) for name in spec.machines]
    open_to_all = [layout.base, layout.log, layout.homes, layout.etc, layout.base / "gpu", layout.base / "machines"]
    for folder in (*open_to_all, *machines, *(path / "spool" for path in machines)):
        _folder(folder, 0o755)
    for folder in (layout.shared, *(path / "scratch" for path in machines)):
        _folder(folder, 0o1777)
    layout.generation.write_text(f"{spec.generation}\n", encoding="ascii")
    for number in range(spec.gpus):
        device = layout.base / "gpu" / f"nvidia{number}"
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # behaves like /dev/null
        device.chmod(0o666)


def _folder(path: Path, mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)  # whatever the caller's umask is
