"""Where ranks go, and whether they are where they were meant to be."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def usable(nodes: Sequence[str], ranks_per_node: int, multiple_of: int) -> int:
    """Return how many of `nodes` can be used so that the world size is a multiple of `multiple_of` (0: none)."""
    count = len(nodes)
    while count and (count * ranks_per_node) % max(multiple_of, 1):
        count -= 1
    return count


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
