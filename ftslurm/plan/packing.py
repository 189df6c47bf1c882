"""On which nodes a model fits, how many of them it takes, and which of the site's are the best ones for it.

A job of Slurm's has one kind of nodes here, so that the kinds of nodes that `sinfo` reports are bins, and the job is
one thing to be put into one of them. The classic rules choose (Johnson et al., SIAM J. Comput. 3(4), 1974, for the
first two):

- first fit: the first kind, in Slurm's order, with enough idle nodes
- best fit: the one of which the fewest idle nodes are left over
- load balance: the one of which the least share is in use with the job on it

What a GPU holds follows from its type only where the site's name for it says so. Types that were sold with several
sizes count as the smallest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import lcm
from typing import TYPE_CHECKING

from ftslurm.plan import memory

if TYPE_CHECKING:
    from ftslurm.model_section import ModelSection
    from ftslurm.slurm.inventory import NodeGroup

GIB = 2**30
GPU_GIB = {
    "p100": 12, "v100": 16, "t4": 16, "rtx6000": 24, "a10": 24, "a10g": 24, "a30": 24, "l4": 24, "a40": 48, "a6000": 48,
    "l40": 48, "l40s": 48, "a100": 40, "a800": 40, "h100": 80, "h800": 80, "gh200": 96, "h20": 96, "h200": 141,
    "b200": 180, "gb200": 186, "mi100": 32, "mi210": 64, "mi250": 64, "mi250x": 64, "mi300a": 128,
    "mi300x": 192, "mi325x": 256,
}  # fmt: skip
"""Gigabytes of memory by type, from the makers' data sheets; of an MI250, which is two devices, those of one."""
_SAID = re.compile(r"(?<![a-z0-9])([0-9]{1,3})gi?b?(?![a-z0-9])")
_WORDS = re.compile(r"[a-z]+[0-9]+[a-z]*")


class Rule(StrEnum):
    """How one of several kinds of nodes is chosen."""

    FIRST_FIT = "first fit"
    BEST_FIT = "best fit"
    LOAD_BALANCE = "load balance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a model fits on a kind of nodes.

    Attributes:
        group: the nodes.
        gpu_bytes: what one of their GPUs holds; None: nobody knows.
        ranks: the ranks of a node, one a GPU.
        fewest: the fewest nodes with which every rank has room; None: not known, or none.
        reason: why not, or how.
    """

    group: NodeGroup
    gpu_bytes: float | None
    ranks: int
    fewest: int | None = None
    reason: str = ""


def gpu_bytes(model: ModelSection, kind: str) -> float | None:
    """Return the memory of a GPU: as the configuration says, else as its type does; None where neither does."""
    if model.gpu_memory is not None:
        return float(model.gpu_memory)
    name = kind.lower()
    said = _SAID.findall(name)
    if said:
        return float(int(said[-1]) * GIB)  # a slice of a GPU is called 1g.10gb
    known = [GPU_GIB[word] for word in _WORDS.findall(name) if word in GPU_GIB]
    return float(known[0] * GIB) if known else None


def fit(model: ModelSection, group: NodeGroup, ranks_per_node: int) -> Fit:
    """Return how a model fits on a kind of nodes, with so many ranks on each of them."""
    room = gpu_bytes(model, group.gpu)
    known = Fit(group=group, gpu_bytes=room, ranks=ranks_per_node)
    if group.gpus < ranks_per_node:
        return _without(known, f"{group.gpus} GPUs for {ranks_per_node} ranks on a node")
    if room is None:
        return _without(known, "how much a GPU holds is not known: give plan.model.gpu_memory")
    if ranks_per_node % model.tensor:
        return _without(known, f"{ranks_per_node} ranks on a node cannot be cut into tensor: {model.tensor}")
    unit = lcm(ranks_per_node, model.model_ranks)
    most = group.total * ranks_per_node // unit * (unit // model.model_ranks)
    copies = memory.fewest_copies(model, room, most)
    if copies is None:
        need = memory.of_rank(model, max(most, 1)).total / GIB
        why = f"{need:.0f} GiB a rank even with all {group.total} nodes" if most else "too few nodes for one copy"
        return _without(known, why)
    step = unit // model.model_ranks
    nodes = -(-copies // step) * unit // ranks_per_node
    need = memory.of_rank(model, nodes * ranks_per_node // model.model_ranks).total / GIB
    return Fit(group=group, gpu_bytes=room, ranks=ranks_per_node, fewest=nodes, reason=f"{need:.0f} GiB a rank then")


def _without(known: Fit, reason: str) -> Fit:
    return Fit(group=known.group, gpu_bytes=known.gpu_bytes, ranks=known.ranks, reason=reason)


def chosen(rule: Rule, fits: Sequence[Fit], nodes: int) -> Fit | None:
    """Return the kind of nodes that a rule takes for a job of so many; None: none has enough idle ones that fit."""
    able = [each for each in fits if each.fewest is not None and each.fewest <= nodes <= each.group.idle]
    if not able:
        return None
    if rule is Rule.FIRST_FIT:
        return able[0]
    if rule is Rule.BEST_FIT:
        return min(able, key=lambda each: each.group.idle - nodes)
    return min(able, key=lambda each: (each.group.total - each.group.idle + nodes) / each.group.total)
