"""What a smaller world means for the training, in words: which sizes there can be, and the global batch of each.

A data-parallel program whose ranks take a fixed number of samples a step has a global batch that is proportional to the
number of ranks. With gradient accumulation over as many micro-batches as it takes, the global batch stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

from ftslurm.core.placement import usable
from ftslurm.core.recovery import FIXED_WORLD, Policy

LISTED = 4
"""So many sizes are listed one by one, more as a range."""

KEEPS = "run.grad_accumulation(global_batch, micro_batch) of ftslurm.training keeps it"


def smaller(nodes: int, policy: Policy) -> tuple[int, ...]:
    """The numbers of nodes below `nodes` that a run may go on with, largest first."""
    names = [""] * nodes
    sizes = (policy.ranks_per_node, policy.world_multiple_of, policy.world_sizes)
    counts = range(nodes - 1, max(policy.min_nodes, 1) - 1, -1)
    return tuple(count for count in counts if usable(names[:count], *sizes) == count)


def announced(nodes: int, policy: Policy) -> tuple[str, ...]:
    """What is said of a run on so many nodes before it begins; nothing where there can be no smaller world."""
    if nodes < 2:
        return ()
    full = nodes * policy.ranks_per_node
    if not policy.reshards:
        return (f"{FIXED_WORLD}; so {_always(full, policy)}",)
    if policy.min_nodes >= nodes:
        return (f"recovery.min_nodes: {policy.min_nodes} forbids a smaller world: {_always(full, policy)}",)
    counts = smaller(nodes, policy)
    if not counts:
        return (f"{_limits(policy)} no smaller world: {_always(full, policy)}",)
    ranks = [count * policy.ranks_per_node for count in counts]
    noun = "rank" if ranks == [1] else "ranks"
    why = f" ({_limits(policy)} no others)" if _limits(policy) else ""
    fits = f", and a multiple of {lcm(full, *ranks)} micro-batches fits all" if len(ranks) <= LISTED else ""
    shares, more = _span([_ratio(each, full) for each in ranks]), _span([_ratio(full, each) for each in ranks])
    sizes = f"{_span(counts)} of {nodes} nodes, that is {_span(ranks)} {noun} instead of {full}{why}"
    return (
        f"when nodes are lost, the run goes on with {sizes}; recovery.min_nodes: {nodes} forbids that",
        _batch(f"is then {shares}", more) + fits,
    )


def changed(before: int, after: int) -> str:
    """What is said where the number of ranks has changed."""
    noun = "rank" if after == 1 else "ranks"
    return f"{after} {noun} instead of {before}: {_batch(f'is {_ratio(after, before)}', _ratio(before, after))}"


def _batch(share: str, more: str) -> str:
    """The global batch without gradient accumulation, and with it."""
    return (
        f"without gradient accumulation the global batch {share} of what it was; {KEEPS}: each rank takes {more} times"
        " as many micro-batches"
    )


def _always(full: int, policy: Policy) -> str:
    """What a lost node means where the world must not shrink."""
    ways = [f"one of {policy.spares} spare nodes replaces a lost one"] if policy.spares else []
    ways += [{"none": "", "requeue": "the job is requeued"}.get(policy.continue_by, "the next job goes on")]
    instead = ", or ".join(filter(None, ways)) or "a lost node ends the run"
    return f"always {full} ranks and the same global batch; {instead}"


def _limits(policy: Policy) -> str:
    """Which settings restrict the sizes; empty if none does."""
    if policy.world_sizes:
        return f"recovery.world_sizes: [{', '.join(map(str, policy.world_sizes))}] allows"
    return f"recovery.world_multiple_of: {policy.world_multiple_of} allows" if policy.world_multiple_of > 1 else ""


def _span(values: Sequence[object]) -> str:
    """`3`, `3 or 2`, `3, 2 or 1`; more than LISTED: `9 to 1`."""
    words = list(map(str, values))
    if len(words) > LISTED:
        return f"{words[0]} to {words[-1]}"
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _ratio(part: int, whole: int) -> str:
    """`3/4 (0.75)`, `2`."""
    ratio = Fraction(part, whole)
    return str(ratio) if ratio.denominator == 1 else f"{ratio} ({part / whole:.3g})"
