from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.placement import local_ranks, node_ranks, usable, world_problem


@pytest.mark.parametrize(
    ("nodes", "per_node", "multiple", "expected"),
    [(0, 8, 1, 0), (4, 8, 1, 4), (4, 8, 16, 4), (3, 8, 16, 2), (3, 8, 64, 0), (3, 1, 0, 3), (5, 2, 4, 4)],
)
def test_usable_nodes_make_an_allowed_world(nodes, per_node, multiple, expected):
    """As many nodes as possible, so that the world size is a multiple."""
    assert usable([f"n{index}" for index in range(nodes)], per_node, multiple) == expected


@pytest.mark.parametrize(
    ("placement", "barred", "expected"),
    [
        (("n1", "n1", "n2", "n2"), (), ""),
        (("n2", "n1", "n2", "n1"), (), ""),
        ((), (), "0 ranks came up where 4 were planned"),
        (("n1", "n1", "n2"), (), "3 ranks came up where 4 were planned"),
        (("n1", "n1", "n3", "n4"), (), "ranks sit on nodes outside the plan: n3, n4"),
        (("n1", "n1", "n3", "n2"), ("n3",), "ranks sit on excluded nodes: n3"),
        (("n1", "n1", "n1", "n1"), (), "planned nodes have no rank: n2"),
    ],
)
def test_only_the_planned_world_passes(placement, barred, expected):
    """Size, hosts, and nobody on an excluded node; the sentence says what is wrong."""
    assert world_problem(("n1", "n2"), 4, placement, barred) == expected


@given(st.lists(st.sampled_from("abcd"), max_size=20))
def test_ranks_are_numbered_on_every_node(placement):
    """Local ranks count from 0 on each node, node ranks in the order of first appearance."""
    local, order = local_ranks(placement), node_ranks(placement)
    for node in set(placement):
        assert [local[rank] for rank, place in enumerate(placement) if place == node] == list(
            range(placement.count(node))
        )
    assert sorted(order.values()) == list(range(len(order)))
    assert sorted(order, key=order.get) == sorted(order, key=placement.index)
