from __future__ import annotations

import pytest

from ftslurm.config import parse
from ftslurm.core.placement import Strategy
from ftslurm.runtime.settings import policy_of, wanted_of

YAML = "name: a\ncommand: [x]\nresources: {nodes: %s, ranks_per_node: 2}\nrecovery: {%s}\n"


@pytest.mark.parametrize(
    ("nodes", "spares", "allocated", "wanted"),
    [
        ("4", 0, 4, 4),
        ("4", 1, 5, 4),
        ("4", 1, 4, 4),
        ("4", 2, 3, 3),
        ("2-4", 1, 5, 4),
        ("2-4", 1, 4, 3),
        ("2-4", 1, 3, 2),
        ("2-4", 1, 2, 2),
        ("4", 0, 9, 4),
    ],
)
def test_spares_are_kept_as_long_as_the_range_allows(nodes, spares, allocated, wanted):
    """Of a range Slurm may give fewer; the run itself comes before its spares."""
    config = parse(YAML % (nodes, f"spares: {spares}"), "f")
    assert wanted_of(config, allocated) == wanted


def test_what_the_user_allows_reaches_the_planner():
    """Each setting of `recovery` that concerns plans."""
    text = "prefer: [spare, requeue], spares: 1, world_sizes: [8, 4], efficiency: 0.5, placement: topology"
    policy = policy_of(parse(YAML % ("4", text), "f"))
    assert policy.prefer == ("spare", "requeue")
    assert (policy.spares, policy.world_sizes, policy.efficiency) == (1, (4, 8), 0.5)
    assert policy.placement is Strategy.TOPOLOGY
