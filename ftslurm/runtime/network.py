"""Addresses and ports of this node.

A loopback address is never given to others: on Debian a host's own name often leads to 127.0.1.1 (/etc/hosts), and
ranks that are told so as MASTER_ADDR wait for a rank 0 that nobody reaches. Then the address on the way to another node
is taken, and that is said.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import random
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from ftslurm.errors import ServiceUnavailable, SiteForbids
from ftslurm.slurm import env

log = logging.getLogger(__name__)

HOST = "{host}"
LOOPBACK = "127."
RESOLVE_S = 10.0
SIOCGIFADDR = 0x8915
TRIES = 200


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 address of this node; `remark` says why it is not the one that was asked for."""

    ip: str
    remark: str = ""


def address_of(interface: str, towards: str) -> str:
    """Return the IPv4 address under which other nodes reach this one; see `find_address`."""
    found = find_address(interface, [towards])
    if found.remark:
        log.warning("%s", found.remark)
    return found.ip


def find_address(interface: str, others: Iterable[str]) -> Address:
    """Return the IPv4 address under which other nodes reach this one.

    Args:
        interface: a network interface; a rule for names such as {host}i, which this node's resolver must know; or
            "auto": the address that the route to the others leaves by.
        others: hosts of the same network, by name or address; the first that can be used is.

    Raises:
        ServiceUnavailable: the interface has no address, or the name none.
        SiteForbids: nobody else could reach the address.
    """
    if HOST in interface:
        return _by_rule(interface, others)
    ip = _on_the_way("auto", others) if interface == "auto" else _of_interface(interface)
    if not ip or ip.startswith(LOOPBACK):
        gives = ip or "no address but loopback"
        raise SiteForbids(
            f"network.interface: {interface} gives {gives} on {host()}, which other nodes cannot reach",
            hint="set network.interface to the interface of the compute network (`ip -4 addr` lists them)",
        )
    return Address(ip)


def own_address(interface: str, others: Iterable[str]) -> Address:
    """Return the address of the supervisor's host: with "auto" the one that its name leads to, where that is of use.

    Raises:
        ServiceUnavailable, SiteForbids: as for `find_address`.
    """
    if interface != "auto":
        return find_address(interface, others)
    names = dict.fromkeys((host(), socket.gethostname()))
    found = [(name, ip) for name in names if (ip := _known(name))]
    for _, ip in found:
        if not ip.startswith(LOOPBACK):
            return Address(ip)
    instead = find_address("auto", [*others, *_of_all_interfaces()]).ip
    leads = f"leads to {found[0][1]} on its own host" if found else "cannot be resolved on its own host"
    return Address(
        instead, f"the name {host()} {leads}: other nodes are told {instead}, the address on the way to them"
    )


def host() -> str:
    """Return this node's name, as Slurm calls it."""
    return os.environ.get(env.NODE_NAME) or socket.gethostname().partition(".")[0]


def _by_rule(rule: str, others: Iterable[str]) -> Address:
    name = rule.replace(HOST, host())
    ip = resolved(name)
    if not ip.startswith(LOOPBACK):
        _refuse_foreign(name, ip)
        return Address(ip)
    instead = _on_the_way(rule, others)
    if not instead:
        raise SiteForbids(
            f"network.interface: {rule} leads to {ip} ({name}), which other nodes cannot reach",
            hint=f"name the interface itself (`ip -4 addr`), or take {name} out of the line of {ip} in /etc/hosts",
        )
    return Address(instead, f"{name} leads to {ip} here: others are told {instead}, the address on the way to them")


def _refuse_foreign(name: str, ip: str) -> None:
    """An old entry of a name service would send the other ranks to somebody else."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError as error:
            raise SiteForbids(
                f"network.interface: {name} leads to {ip}, which is no address of {host()} ({error.strerror})",
                hint="`getent hosts` and `ip -4 addr` on the node show both; name the interface itself instead",
            ) from error


def _on_the_way(rule: str, others: Iterable[str]) -> str:
    """The address that the route to one of the others leaves by; empty where none of them can be used."""
    for other in others:
        target = other if rule == "auto" or _is_address(other) else rule.replace(HOST, other)
        with suppress(OSError, ServiceUnavailable), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((resolved(target), 9))
            ip = str(probe.getsockname()[0])
            if not ip.startswith(LOOPBACK):  # the way to another node, not to this one
                return ip
    return ""


def _of_interface(interface: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError as error:
            raise ServiceUnavailable(
                f"network interface {interface!r} has no IPv4 address here: {error.strerror}",
                hint="`ip -4 addr` lists the interfaces of a node; or set network.interface: auto",
            ) from error
    return socket.inet_ntoa(answer[20:24])


def _of_all_interfaces() -> list[str]:
    """Addresses of this node that others may reach, for a job that has no other node to look towards."""
    found = []
    for _, name in socket.if_nameindex():
        with suppress(ServiceUnavailable):
            found.append(_of_interface(name))
    return [ip for ip in found if not ip.startswith(LOOPBACK)]


def _is_address(text: str) -> bool:
    try:
        socket.inet_aton(text)
    except OSError:
        return False
    return True


def _known(name: str) -> str:
    try:
        return resolved(name)
    except ServiceUnavailable:
        return ""


@cache
def resolved(name: str) -> str:
    """Return the IPv4 address that this node's resolver has for a name; what was found once is not asked again.

    Raises:
        ServiceUnavailable: none, or no answer in time.
    """
    answers: queue.SimpleQueue[str | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.gethostbyname(name))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, name=f"resolve {name}", daemon=True).start()
    hint = "`getent hosts NAME` on the node shows what its resolver knows"
    try:
        answer = answers.get(timeout=RESOLVE_S)
    except queue.Empty:
        raise ServiceUnavailable(f"the resolver says nothing about {name} in {RESOLVE_S:g} s", hint=hint) from None
    if isinstance(answer, OSError):
        raise ServiceUnavailable(f"{name} cannot be resolved on {host()}: {answer.strerror}", hint=hint)
    return answer


def free_port(ports: tuple[int, int], avoid: set[int]) -> int:
    """Return a TCP port of the range that can be bound here now, and was never an attempt's before.

    The order is random, so that two runs on one node do not race for the same port. A port in TIME_WAIT is refused by
    bind without SO_REUSEADDR, which is wanted here: the next world must not meet leftovers of the last.

    Raises:
        ServiceUnavailable: no port of the range is free.
    """
    low, high = ports
    candidates = random.sample(range(low, high + 1), min(high - low + 1, TRIES))
    for port in candidates:
        if port in avoid:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise ServiceUnavailable(f"no port between {low} and {high} is free", hint="widen network.ports")
