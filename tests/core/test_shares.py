from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.shares import shares

SIZES = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 10**9), max_size=40)
NODES = st.lists(st.sampled_from([f"n{number}" for number in range(9)]), min_size=1, max_size=12)


@given(SIZES, NODES)
def test_every_file_has_one_node(sizes: dict[str, int], nodes: list[str]) -> None:
    """Each file is somebody's, and nobody else's; every node is named."""
    found = shares(sizes, nodes)
    assert set(found) == set(nodes)
    assert sorted(name for names in found.values() for name in names) == sorted(sizes)


@given(SIZES, NODES, st.randoms(use_true_random=False))
def test_all_nodes_compute_the_same(sizes: dict[str, int], nodes: list[str], random) -> None:
    """The order in which files and nodes are named does not matter."""
    names = list(sizes)
    random.shuffle(names)
    assert shares({name: sizes[name] for name in names}, reversed(nodes)) == shares(sizes, nodes)


@given(SIZES, NODES)
def test_nobody_has_much_more_than_the_others(sizes: dict[str, int], nodes: list[str]) -> None:
    """A share exceeds the mean by the largest file at most."""
    loads = [sum(sizes[name] + 1 for name in names) for names in shares(sizes, nodes).values()]
    assert max(loads) <= sum(loads) / len(loads) + max(sizes.values(), default=0) + 1


def test_nobody_to_share_among() -> None:
    """Without a node there is no share."""
    assert shares({"a": 1}, []) == {}
