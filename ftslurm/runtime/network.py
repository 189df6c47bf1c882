"""Addresses and ports of this node."""

from __future__ import annotations

import fcntl
import random
import socket
import struct

from ftslurm.errors import ServiceUnavailable

SIOCGIFADDR = 0x8915
TRIES = 200


def address_of(interface: str, towards: str) -> str:
    """Return the IPv4 address under which other nodes reach this one.

    Args:
        interface: a network interface, or "auto": the one that the route to `towards` leaves by.
        towards: a host of the same network.

    Raises:
        ServiceUnavailable: the interface has no address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if interface == "auto":
            probe.connect((towards, 9))
            return str(probe.getsockname()[0])
        try:
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError as error:
            raise ServiceUnavailable(
                f"network interface {interface!r} has no IPv4 address here: {error.strerror}",
                hint="`ip -4 addr` lists the interfaces of a node; or set network.interface: auto",
            ) from error
        return socket.inet_ntoa(answer[20:24])


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
