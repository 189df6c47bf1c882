"""Every fault that can be made, by its name. `CATALOGUE` is data: nothing here does anything.

The rows are those of the fault matrix (docs/fault-matrix.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ftslurm.errors import UsageError
from ftslurm.faults import node_faults, pairs, program_faults, rank_faults, storage_faults, system_faults
from ftslurm.faults.deeds import Moment, Pair
from ftslurm.faults.fault import PRIVILEGED, Expected, Fault, Need, Where
from ftslurm.faults.weights import weights

__all__ = ["CATALOGUE", "PRIVILEGED", "Expected", "Fault", "Need", "Where", "by_name", "double_at", "possible"]


def _catalogue() -> dict[str, Fault]:
    shares = weights()
    parts = (rank_faults, node_faults, program_faults, storage_faults, system_faults, pairs)
    faults = (fault for part in parts for fault in part.FAULTS)
    return {fault.name: replace(fault, weight=shares.get(fault.name, 0.0)) for fault in faults}


CATALOGUE: Mapping[str, Fault] = _catalogue()


def by_name(name: str) -> Fault:
    """The fault of this name.

    Raises:
        UsageError: there is none.
    """
    found = CATALOGUE.get(name)
    if found is None:
        raise UsageError(f"there is no fault {name!r}", hint="`ftslurm inject --list` shows all")
    return found


def double_at(fault: Fault, moment: Moment | None) -> Fault:
    """The same double fault with another moment for its second part; itself where there is no choice.

    There is none where nobody says a moment, the fault is a single one, or the first part lets the training go on.
    """
    if moment is None or not isinstance(fault.deed, Pair) or not by_name(fault.deed.first).stops_training:
        return fault
    return replace(fault, deed=replace(fault.deed, moment=moment))


def possible(offers: Iterable[Need]) -> tuple[Fault, ...]:
    """The faults that need no more than this, in the order of the catalogue."""
    offered = frozenset(offers)
    return tuple(fault for fault in CATALOGUE.values() if fault.needs <= offered)
