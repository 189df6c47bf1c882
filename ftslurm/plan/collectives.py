"""How long an all-reduce takes: the alpha-beta model of its three classic algorithms.

A message of n bytes takes alpha + n beta: a latency, and the bytes by the bandwidth of one rank, which sends and
receives at the same time. For p ranks, as in Thakur, Rabenseifner and Gropp (IJHPCA 19(1), 2005):

    ring       2 (p - 1) alpha + 2 (p - 1)/p n beta                  a reduce-scatter, then an all-gather: least bytes
    doubling   (ceil(lg p), and 1 more unless p is a power of 2) x (alpha + n beta)          fewest messages
    tree       2 ceil(lg p) (alpha + n beta)                         a binomial tree up, then down

The ring sends the least that is possible (Patarasuk and Yuan, JPDC 69, 2009). A p that is no power of two is folded
before the doubling and unfolded after it: floor(lg p) + 2 exchanges. What NCCL calls a tree is better than this one: it
cuts the message into pieces that follow one another on two trees (Sanders, Speck and Traeff, Parallel Computing 35,
2009), which comes near 2 lg p alpha + 2 n beta. The sums themselves are taken to cost nothing beside the network; so is
what several messages do to one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Algorithm(StrEnum):
    """How ranks add up what each of them has."""

    RING = "ring"
    DOUBLING = "recursive doubling"
    TREE = "tree"


@dataclass(frozen=True, slots=True)
class Link:
    """What one rank has of the network: seconds of a message however small, and bytes a second in each direction."""

    latency_s: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        if not (self.latency_s >= 0 and self.bytes_per_s > 0):
            raise ValueError(f"no link has a latency of {self.latency_s} s and {self.bytes_per_s} bytes a second")

    def message_s(self, size_bytes: float) -> float:
        """The time of one message."""
        return self.latency_s + size_bytes / self.bytes_per_s


def all_reduce_s(algorithm: Algorithm, size_bytes: float, ranks: int, link: Link) -> float:
    """Return the seconds of an all-reduce of `size_bytes` on each of the ranks; a single rank has nothing to do.

    Raises:
        ValueError: no ranks, or a size below 0.
    """
    if ranks < 1 or size_bytes < 0:
        raise ValueError(f"{ranks} ranks cannot add up {size_bytes} bytes")
    if ranks == 1:
        return 0.0
    rounds = (ranks - 1).bit_length()
    if algorithm is Algorithm.RING:
        return 2 * (ranks - 1) * link.message_s(size_bytes / ranks)
    if algorithm is Algorithm.TREE:
        return 2 * rounds * link.message_s(size_bytes)
    folded = ranks & (ranks - 1)
    return (rounds + 1 if folded else rounds) * link.message_s(size_bytes)


def fastest(size_bytes: float, ranks: int, link: Link) -> tuple[Algorithm, float]:
    """Return the algorithm that takes the least time, and that time; the ring where they are equal."""
    return min(((each, all_reduce_s(each, size_bytes, ranks, link)) for each in Algorithm), key=lambda pair: pair[1])


def sharded_s(size_bytes: float, ranks: int, link: Link) -> float:
    """Return the seconds of one half of a ring: a reduce-scatter or an all-gather of `size_bytes` in all.

    Raises:
        ValueError: as `all_reduce_s`.
    """
    return all_reduce_s(Algorithm.RING, size_bytes, ranks, link) / 2
