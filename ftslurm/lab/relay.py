"""A slow and lossy cable, for kernels without netem: hands Ethernet frames on between two interfaces.

Run as a program in the login host: `python -I -m ftslurm.lab.relay NODE_END SWITCH_END READY DELAY_MS JITTER_MS
LOSS_PERCENT`; the file READY is made once frames are carried.
Frames towards the node are delayed and lost, frames from it go on at once: what netem does on the switch's end of the
link. Offloads (segments larger than a frame, checksums not yet computed) survive, because frames are read and written
with their virtio header; see PACKET_VNET_HDR in packet(7). Good for heartbeats and control traffic: Python hands on
some ten thousand frames a second.
"""

from __future__ import annotations

import heapq
import itertools
import random
import select
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_PACKET_IGNORE_OUTGOING = 23
_ETH_P_ALL = 3
_LARGEST = 70000  # a segment of 64 KiB with its headers
_QUEUE_LIMIT = 10000  # frames; netem's default is a tenth of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable:
    """How bad it is."""

    delay_s: float
    jitter_s: float
    loss: float  # 0 to 1

    def fate(self, chance: random.Random) -> float | None:
        """Seconds that a frame is held back; None when it is lost."""
        if chance.random() < self.loss:
            return None
        return max(0.0, self.delay_s + chance.uniform(-self.jitter_s, self.jitter_s))


def open_end(interface: str) -> socket.socket:
    """A socket for all frames that come in at an interface."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    end.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    end.bind((interface, _ETH_P_ALL))
    end.settimeout(0)
    return end


def receive(end: socket.socket) -> bytes | None:
    """The next frame; None when there is none or the link is down."""
    try:
        return end.recv(_LARGEST)
    except OSError:
        return None


def send(end: socket.socket, frame: bytes) -> None:
    """Send a frame, or lose it as a cable that is unplugged does."""
    try:
        end.send(frame)
    except OSError:
        return


def carry(node: socket.socket, switch: socket.socket, cable: Cable) -> None:
    """Hand frames on for ever."""
    held: list[tuple[float, int, bytes]] = []
    order = itertools.count()
    chance = random.Random()  # noqa: S311  nothing here is secret
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        ready, _, _ = select.select([node, switch], [], [], wait)
        if node in ready and (frame := receive(node)) is not None:
            send(switch, frame)
        if switch in ready and (frame := receive(switch)) is not None:
            fate = cable.fate(chance)
            if fate is not None and len(held) < _QUEUE_LIMIT:
                heapq.heappush(held, (time.monotonic() + fate, next(order), frame))
        while held and held[0][0] <= time.monotonic():
            send(node, heapq.heappop(held)[2])


def main(node_end: str, switch_end: str, ready: str, *numbers: str) -> None:
    """Carry until killed."""
    delay_ms, jitter_ms, loss_percent = map(float, numbers)
    cable = Cable(delay_s=delay_ms / 1000, jitter_s=jitter_ms / 1000, loss=loss_percent / 100)
    node, switch = open_end(node_end), open_end(switch_end)
    Path(ready).touch()
    carry(node, switch, cable)


if __name__ == "__main__":
    main(*sys.argv[1:])
