from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.placement import (
    Places,
    Strategy,
    arranged,
    best_first,
    local_ranks,
    node_ranks,
    usable,
    world_problem,
)


@pytest.mark.parametrize(
    ("nodes", "per_node", "multiple", "expected"),
    [(0, 8, 1, 0), (4, 8, 1, 4), (4, 8, 16, 4), (3, 8, 16, 2), (3, 8, 64, 0), (3, 1, 0, 3), (5, 2, 4, 4)],
)
def test_usable_nodes_make_an_allowed_world(nodes, per_node, multiple, expected):
    """As many nodes as possible, so that the world size is a multiple."""
    assert usable([f"n{index}" for index in range(nodes)], per_node, multiple) == expected


@pytest.mark.parametrize(("nodes", "expected"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (9, 4)])
def test_usable_nodes_make_a_world_of_the_list(nodes, expected):
    """Where world sizes are listed no other is taken; a size must be one of both rules."""
    names = [f"n{index}" for index in range(nodes)]
    assert usable(names, 8, 1, (16, 32)) == expected
    assert usable(names, 8, 32, (16, 32)) == (4 if nodes >= 4 else 0)


KNOWN = Places(
    switches={"n1": "a", "n2": "b", "n3": "a", "n4": "b", "n5": "b"}, loads={"n1": 3.0, "n2": 0.1, "n3": 0.1, "n4": 9.0}
)
FIVE = ("n1", "n2", "n3", "n4", "n5")


@pytest.mark.parametrize(
    ("strategy", "near", "expected"),
    [
        (Strategy.ROUND_ROBIN, (), FIVE),
        (Strategy.LOAD_BALANCED, (), ("n2", "n3", "n1", "n4", "n5")),
        (Strategy.TOPOLOGY, (), ("n2", "n4", "n5", "n1", "n3")),
        (Strategy.TOPOLOGY, ("n9",), ("n2", "n4", "n5", "n1", "n3")),
    ],
)
def test_best_nodes_come_first(strategy, near, expected):
    """Slurm's order, the least loaded, or the largest group on a switch; equal ones stay in Slurm's order."""
    assert best_first(FIVE, strategy, KNOWN, near) == expected
    assert best_first(FIVE, strategy, Places()) == FIVE


def test_a_spare_is_taken_from_the_switches_in_use():
    """One node on the switch of the others is better than a larger group elsewhere."""
    assert best_first(("n2", "n3", "n4"), Strategy.TOPOLOGY, KNOWN, near=("n1",)) == ("n3", "n2", "n4")


@given(
    st.permutations(FIVE),
    st.sets(st.sampled_from(FIVE)),
    st.sampled_from(Strategy),
    st.dictionaries(st.sampled_from(FIVE), st.sampled_from("abc")),
)
def test_arranged_nodes_are_the_chosen_ones(nodes, chosen, strategy, switches):
    """Nothing is lost or invented, and with the topology the nodes of a switch stand together."""
    found = arranged(nodes, chosen, strategy, Places(switches=switches))
    assert set(found) == chosen
    assert len(found) == len(chosen)
    if strategy is not Strategy.TOPOLOGY:
        assert list(found) == [node for node in nodes if node in chosen]
        return
    groups = [switches.get(node, "") for node in found]
    assert sum(one != two for one, two in pairwise(groups)) == max(len(set(groups)) - 1, 0)


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
