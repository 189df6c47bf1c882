"""The times of an all-reduce, against a network that carries every message of the algorithm and checks its sum."""

from __future__ import annotations

import pytest

from ftslurm.plan.collectives import Algorithm, Link, all_reduce_s, fastest, sharded_s

LINK = Link(latency_s=0.25, bytes_per_s=64.0)
SIZE = 1024.0
RANKS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 33)


class Network:
    """Ranks that each hold as many numbers as there are ranks; a round lasts as long as its longest message."""

    def __init__(self, ranks):
        self.ranks, self.spent_s = ranks, 0.0
        self.held = [[float(rank + 1)] * ranks for rank in range(ranks)]

    def round(self, messages, *, adds=True):
        """Carry (from, to, places) at the same time; a rank sends one message and gets one."""
        sent = [(to, [(place, self.held[source][place]) for place in places]) for source, to, places in messages]
        assert len({source for source, _, _ in messages}) == len({to for _, to, _ in messages}) == len(messages)
        for to, values in sent:
            for place, value in values:
                self.held[to][place] = value + (self.held[to][place] if adds else 0.0)
        longest = max(len(values) for _, values in sent)
        self.spent_s += LINK.latency_s + longest * SIZE / self.ranks / LINK.bytes_per_s

    @property
    def whole(self):
        return range(self.ranks)

    def ring(self):
        for adds in (True, False):
            for turn in range(self.ranks - 1):
                first = turn if adds else turn - 1
                pairs = [(rank, (rank + 1) % self.ranks, [(rank - first) % self.ranks]) for rank in self.whole]
                self.round(pairs, adds=adds)

    def doubling(self):
        core = 1 << (self.ranks.bit_length() - 1)
        rest = range(core, self.ranks)
        if rest:
            self.round([(rank, rank - core, self.whole) for rank in rest])
        for bit in range(core.bit_length() - 1):
            self.round([(rank, rank ^ (1 << bit), self.whole) for rank in range(core)])
        if rest:
            self.round([(rank - core, rank, self.whole) for rank in rest], adds=False)

    def tree(self):
        hops = [1 << bit for bit in range((self.ranks - 1).bit_length())]
        edges = [[(at + hop, at) for at in range(0, self.ranks, 2 * hop) if at + hop < self.ranks] for hop in hops]
        for pairs in edges:
            self.round([(child, parent, self.whole) for child, parent in pairs])
        for pairs in reversed(edges):
            self.round([(parent, child, self.whole) for child, parent in pairs], adds=False)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("algorithm", Algorithm)
def test_closed_form_is_the_algorithms_time(algorithm, ranks):
    """The messages of each algorithm give every rank the sum, in exactly the time of the formula."""
    network = Network(ranks)
    getattr(network, algorithm.name.lower())()
    assert network.held == [[sum(range(1, ranks + 1))] * ranks] * ranks
    assert network.spent_s == pytest.approx(all_reduce_s(algorithm, SIZE, ranks, LINK))


def test_small_messages_double_and_large_ones_go_round():
    """Latency decides for little, bandwidth for much; a tree of whole messages never beats doubling."""
    link = Link(latency_s=1e-5, bytes_per_s=25e9)
    assert fastest(1024, 1024, link)[0] is Algorithm.DOUBLING
    assert fastest(1e9, 1024, link)[0] is Algorithm.RING
    assert all(
        all_reduce_s(Algorithm.TREE, size, ranks, link) >= all_reduce_s(Algorithm.DOUBLING, size, ranks, link)
        for size in (0, 1e3, 1e9)
        for ranks in RANKS
    )


def test_a_ring_approaches_twice_the_bytes():
    """However many ranks: 2 n / B without latency, half of it for a reduce-scatter."""
    link = Link(latency_s=0.0, bytes_per_s=1e9)
    assert all_reduce_s(Algorithm.RING, 1e9, 10_000, link) == pytest.approx(2.0, rel=1e-3)
    assert sharded_s(1e9, 10_000, link) == pytest.approx(1.0, rel=1e-3)
    assert fastest(1e9, 1, link) == (Algorithm.RING, 0.0)


def test_impossible_worlds_are_refused():
    """No ranks, no bytes below nothing, no link without bandwidth."""
    for size, ranks in ((-1.0, 2), (1.0, 0)):
        with pytest.raises(ValueError, match="cannot add up"):
            all_reduce_s(Algorithm.RING, size, ranks, LINK)
    for latency_s, bytes_per_s in ((-1.0, 1.0), (0.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="no link has"):
            Link(latency_s, bytes_per_s)
