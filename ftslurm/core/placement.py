"""Where ranks go, and whether they are where they were meant to be.

A strategy says which nodes are taken when there are more than needed, and in which order they are named. It decides
nothing about the number of nodes. The order of ranks is the launcher's own (srun sorts them: M20); it is read back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Strategy(StrEnum):
    """How nodes are chosen: in Slurm's order, the least loaded first, or those that share a switch with most others."""

    ROUND_ROBIN = "round_robin"
    LOAD_BALANCED = "load_balanced"
    TOPOLOGY = "topology"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What is known of nodes: the leaf switch of each, and its load per CPU. Both may be unknown."""

    switches: Mapping[str, str] = field(default_factory=dict)
    loads: Mapping[str, float] = field(default_factory=dict)


NOWHERE = Places()


def usable(nodes: Sequence[str], ranks_per_node: int, multiple_of: int, sizes: Collection[int] = ()) -> int:
    """Return how many of `nodes` can be used so that the world has an allowed size (0: none).

    Args:
        nodes: the nodes that there are.
        ranks_per_node: ranks on each.
        multiple_of: the world size is a multiple of it.
        sizes: the world sizes that are allowed; empty: all.
    """
    count = len(nodes)
    while count and ((count * ranks_per_node) % max(multiple_of, 1) or (sizes and count * ranks_per_node not in sizes)):
        count -= 1
    return count


def best_first(nodes: Sequence[str], strategy: Strategy, places: Places, near: Sequence[str] = ()) -> tuple[str, ...]:
    """Return nodes, those first that should be taken first; equal ones stay in the given order.

    Args:
        nodes: candidates, in Slurm's order.
        strategy: how to choose.
        places: what is known of them; a node whose load is not known comes behind those whose load is.
        near: nodes that are taken anyway: a candidate on their switches is better than one elsewhere.
    """
    if strategy is Strategy.LOAD_BALANCED:
        return tuple(sorted(nodes, key=lambda node: places.loads.get(node, float("inf"))))
    if strategy is Strategy.TOPOLOGY:
        company = Counter(places.switches.get(node, "") for node in (*near, *nodes))
        taken = Counter(places.switches.get(node, "") for node in near)

        def rank(node: str) -> tuple[int, int, str]:
            switch = places.switches.get(node, "")
            return (-taken[switch], -company[switch], switch)

        return tuple(sorted(nodes, key=rank))
    return tuple(nodes)


def arranged(nodes: Sequence[str], chosen: Collection[str], strategy: Strategy, places: Places) -> tuple[str, ...]:
    """Return the chosen ones of `nodes` in the order in which an attempt names them."""
    wanted = frozenset(chosen)
    kept = [node for node in nodes if node in wanted]
    if strategy is Strategy.TOPOLOGY:
        first = {places.switches.get(node, ""): index for index, node in reversed(list(enumerate(kept)))}
        kept.sort(key=lambda node: first[places.switches.get(node, "")])
    return tuple(kept)


def world_problem(planned: Sequence[str], world_size: int, placement: Sequence[str], barred: Collection[str]) -> str:
    """Return what is wrong with a world that has mustered, in one sentence; empty when it is the planned one.

    Args:
        planned: the nodes of the plan.
        world_size: the ranks of the plan.
        placement: the node of every rank, as the ranks themselves report it.
        barred: nodes that are condemned.
    """
    if len(placement) != world_size:
        return f"{len(placement)} ranks came up where {world_size} were planned"
    outlaws = sorted(set(placement) & set(barred))
    if outlaws:
        return f"ranks sit on excluded nodes: {', '.join(outlaws)}"
    strangers = sorted(set(placement) - set(planned))
    if strangers:
        return f"ranks sit on nodes outside the plan: {', '.join(strangers)}"
    empty = sorted(set(planned) - set(placement))
    if empty:
        return f"planned nodes have no rank: {', '.join(empty)}"
    return ""


def local_ranks(placement: Sequence[str]) -> tuple[int, ...]:
    """Return the local rank of every rank: its index among the ranks of its node, in rank order."""
    seen: dict[str, int] = {}
    numbers = []
    for node in placement:
        numbers.append(seen.get(node, 0))
        seen[node] = numbers[-1] + 1
    return tuple(numbers)


def node_ranks(placement: Sequence[str]) -> dict[str, int]:
    """Return the index of every node, in the order of its lowest rank."""
    return {node: index for index, node in enumerate(dict.fromkeys(placement))}
