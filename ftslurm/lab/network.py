"""Links between the machines of a lab: a bridge in the login host's network namespace, one veth pair for each node.

A node is *cut* by taking the switch's end of its link down: what is sent is lost without an answer, as with a pulled
cable. Nothing inside the node changes, so it is *healed* by taking the link up again. See veth(4).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence

from ftslurm.errors import ServiceUnavailable
from ftslurm.lab.layout import BRIDGE, LabSpec

_TIMEOUT_S = 10.0


def _run(argv: Sequence[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as caught:
        raise ServiceUnavailable(f"no answer within {_TIMEOUT_S:g} s: {' '.join(argv)}") from caught


def in_switch(login_pid: int, argv: Sequence[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in the switch's network namespace."""
    return _run(["nsenter", f"--net=/proc/{login_pid}/ns/net", *argv], stdin)


def batch(login_pid: int, commands: Sequence[str]) -> None:
    """Run several commands of ip(8) there.

    Raises:
        ServiceUnavailable: one of them failed.
    """
    done = in_switch(login_pid, ["ip", "-batch", "-"], "\n".join(commands) + "\n")
    if done.returncode != 0:
        raise ServiceUnavailable(f"the lab's network refused: {done.stderr.strip()}")


def routed_networks() -> list[str]:
    """Destinations of the real machine's routing table."""
    done = _run(["ip", "-json", "-4", "route", "show"])
    return [str(route["dst"]) for route in json.loads(done.stdout or "[]")]


def plug_in(login_pid: int, spec: LabSpec, node: str, node_pid: int) -> None:
    """Join a freshly booted node to the switch; the end on the switch carries the node's name."""
    peer = f"peer name eth0 address {spec.hardware_address(node)} netns {node_pid}"
    batch(login_pid, [f"link add {node} type veth {peer}", f"link set {node} master {BRIDGE} up"])


def plug_in_host(login_pid: int, spec: LabSpec) -> None:
    """Join the real machine, so that Slurm's commands work outside of the lab with SLURM_CONF set."""
    _run(["ip", "link", "delete", spec.host_interface])  # of a crashed lab whose namespace is only just going
    batch(
        login_pid,
        [
            f"link add host type veth peer name {spec.host_interface} netns {os.getpid()}",
            f"link set host master {BRIDGE} up",
        ],
    )
    commands = f"address add {spec.host_address}/24 dev {spec.host_interface}\nlink set {spec.host_interface} up\n"
    done = _run(["ip", "-batch", "-"], commands)
    if done.returncode != 0:
        raise ServiceUnavailable(f"cannot join this machine to the lab's network: {done.stderr.strip()}")


def unplug_host(spec: LabSpec) -> None:
    """Remove the real machine's interface; nothing happens if it is gone."""
    _run(["ip", "link", "delete", spec.host_interface])


def unplug(login_pid: int, node: str) -> None:
    """Take a node's link away for good, without a last word from either end; nothing happens if it is gone."""
    in_switch(login_pid, ["ip", "link", "set", node, "down"])
    in_switch(login_pid, ["ip", "link", "delete", node])


def set_link(login_pid: int, node: str, *, up: bool) -> None:
    """Cut a node off, or heal it."""
    batch(login_pid, [f"link set {node} {'up' if up else 'down'}"])


def links(login_pid: int) -> dict[str, bool]:
    """Node -> is its link up, for every node that is plugged in."""
    done = in_switch(login_pid, ["ip", "-json", "link", "show", "type", "veth"])
    return {str(link["ifname"]): "UP" in link["flags"] for link in json.loads(done.stdout or "[]")}


def slow_by_kernel(login_pid: int, node: str, shape: Sequence[str]) -> bool:
    """Put netem on the switch's end of a link; False when this kernel has none."""
    return in_switch(login_pid, ["tc", "qdisc", "replace", "dev", node, "root", "netem", *shape]).returncode == 0


def insert(login_pid: int, node: str) -> tuple[str, str]:
    """Take a node's link off the switch and join both by nothing: returns the two ends that a relay must join."""
    plug, end = f"{node}.s", f"{node}.r"
    batch(
        login_pid,
        [
            f"link add {plug} type veth peer name {end}",
            f"link set {plug} master {BRIDGE} up",
            f"link set {end} up",
            f"link set {node} nomaster",
        ],
    )
    return node, end


def make_good(login_pid: int, node: str) -> None:
    """Undo both ways to slow a link; nothing happens if it is good."""
    in_switch(login_pid, ["tc", "qdisc", "del", "dev", node, "root"])  # fails when there is none
    if in_switch(login_pid, ["ip", "link", "delete", f"{node}.s"]).returncode == 0:
        batch(login_pid, [f"link set {node} master {BRIDGE}"])
