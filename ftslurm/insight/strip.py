"""The nodes of a run as one character each: what each of them is, for a display that has room for no more.

The characters say it without any colour. The colours are those of Okabe and Ito (2008), which people with any of the
usual kinds of colour blindness tell apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from ftslurm.insight.text import folded

if TYPE_CHECKING:
    from ftslurm.insight.summary import Summary

FULL_NODES = 128
"""Of more nodes than this, only those that are not well are named, and the others counted."""


class Mark(StrEnum):
    """What a node is to its run; the value is its character. EXCLUDED: given up, though it may still answer."""

    HEALTHY = "o"
    SPARE = "."
    UNWELL = "!"
    SUSPECTED = "?"
    EXCLUDED = "x"
    LOST = "-"

    @property
    def word(self) -> str:
        """For a legend."""
        return self.name.lower()

    @property
    def colour(self) -> str:
        """As RGB; a terminal of fewer colours shows the nearest that it has."""
        return _COLOURS[self]


_COLOURS = {
    Mark.HEALTHY: "#009e73",
    Mark.SPARE: "#56b4e9",
    Mark.UNWELL: "#f0e442",
    Mark.SUSPECTED: "#e69f00",
    Mark.EXCLUDED: "#d55e00",
    Mark.LOST: "#cc79a7",
}


def marks(summary: Summary) -> dict[str, Mark]:
    """Every node of the allocation, in Slurm's order."""
    return {node: _mark(summary, node) for node in summary.allocation}


def _mark(summary: Summary, node: str) -> Mark:
    """The worst that is known of a node."""
    if node in summary.glance.lost:
        return Mark.LOST
    if node in summary.excluded:
        return Mark.EXCLUDED
    if node in summary.glance.suspected:
        return Mark.SUSPECTED
    if node in summary.ills:
        return Mark.UNWELL
    return Mark.SPARE if summary.nodes and node not in summary.nodes else Mark.HEALTHY


def strip(found: Mapping[str, Mark]) -> list[tuple[str, Mark]]:
    """Pieces of text, each of one kind of node: one character a node, or, of many nodes, how many there are."""
    if len(found) <= FULL_NODES:
        return [(mark.value * sum(1 for _ in same), mark) for mark, same in itertools.groupby(found.values())]
    counts = [(mark, sum(each is mark for each in found.values())) for mark in Mark]
    return [(f"{mark.value}{number} ", mark) for mark, number in counts if number]


def named(found: Mapping[str, Mark]) -> list[tuple[str, Mark]]:
    """The nodes that somebody may want to look at, by what they are."""
    told = (Mark.UNWELL, Mark.SUSPECTED, Mark.EXCLUDED, Mark.LOST)
    groups = [(mark, [node for node, each in found.items() if each is mark]) for mark in told]
    return [(f"{folded(nodes)} {mark.word}", mark) for mark, nodes in groups if nodes]
